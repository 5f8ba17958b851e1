//! Runs the icecore command as a subprocess.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::wait;

/// An icecore command line under construction. Its output goes to files in
/// `scratch`: a restored process that outlives icecore must not hold a pipe of
/// the test.
#[derive(Debug)]
pub(crate) struct Icecore {
    command: Command,
    stdout: PathBuf,
    stderr: PathBuf,
    limit: Duration,
}

/// What came of an icecore command.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    shown: String,
}

impl Icecore {
    /// `icecore SUBCOMMAND`.
    pub(crate) fn new(scratch: &Path, subcommand: &str) -> Self {
        Self::through(scratch, Command::new(program()), subcommand)
    }

    /// The same, with its files limited to `blocks` of 512 bytes: writing fails
    /// half-way with EFBIG, as on a full disk.
    pub(crate) fn with_file_limit(scratch: &Path, subcommand: &str, blocks: u32) -> Self {
        let mut shell = Command::new("/bin/sh");
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
        shell.args(["-c", &script, "sh", program()]);
        Self::through(scratch, shell, subcommand)
    }

    /// The same, in the cgroup with this `cgroup.procs`.
    pub(crate) fn in_group(scratch: &Path, subcommand: &str, entrance: &Path) -> Self {
        let mut shell = Command::new("/bin/sh");
        let script = "echo $$ >\"$0\" && exec \"$@\"";
        shell.args(["-c", script]).arg(entrance).arg(program());
        Self::through(scratch, shell, subcommand)
    }

    /// The same, started by a `wrapper` such as setpriv.
    pub(crate) fn by(scratch: &Path, mut wrapper: Command, subcommand: &str) -> Self {
        wrapper.arg(program());
        Self::through(scratch, wrapper, subcommand)
    }

    /// The same, by a command that ends with the program to be run.
    pub(crate) fn through(scratch: &Path, mut command: Command, subcommand: &str) -> Self {
        command.arg(subcommand).arg("--no-default-config");
        command.stdin(Stdio::null());
        Self {
            command,
            stdout: scratch.join(format!("icecore-{subcommand}.out")),
            stderr: scratch.join(format!("icecore-{subcommand}.err")),
            limit: wait::LIMIT,
        }
    }

    /// Appends an argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Appends arguments.
    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of its environment.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Allows it more time than usual.
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts it without waiting.
    pub(crate) fn start(mut self) -> Result<Started, String> {
        let create = |path: &Path| File::create(path).map_err(|e| format!("create {path:?}: {e}"));
        self.command.stdout(create(&self.stdout)?);
        self.command.stderr(create(&self.stderr)?);
        let shown = format!("{:?}", self.command);
        let child = self.command.spawn();
        let child = child.map_err(|e| format!("start {shown}: {e}"))?;
        Ok(Started {
            child,
            shown,
            stdout: self.stdout,
            stderr: self.stderr,
            limit: self.limit,
        })
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> Result<Finished, String> {
        self.start()?.finish()
    }

    /// Runs it to its end, which must be success.
    pub(crate) fn succeed(self) -> Result<Finished, String> {
        self.run()?.expect_success()
    }
}

/// An icecore that runs. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Started {
    child: Child,
    shown: String,
    stdout: PathBuf,
    stderr: PathBuf,
    limit: Duration,
}

impl Started {
    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        lossy(&self.stderr)
    }

    /// Waits for its end; one that hangs is killed.
    pub(crate) fn finish(mut self) -> Result<Finished, String> {
        let child = &mut self.child;
        let ended = wait::until("icecore to end", self.limit, || {
            child.try_wait().map_err(|e| format!("wait: {e}"))
        });
        let status = ended.map_err(|e| format!("{}: {e}\n{}", self.shown, lossy(&self.stderr)))?;
        Ok(Finished {
            status,
            stdout: lossy(&self.stdout),
            stderr: lossy(&self.stderr),
            shown: self.shown.clone(),
        })
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// Itself if it succeeded, otherwise an error with all it said.
    pub(crate) fn expect_success(self) -> Result<Self, String> {
        match self.status.success() {
            true => Ok(self),
            false => Err(self.describe("should have succeeded")),
        }
    }

    /// Itself if it failed by its own decision, with `text` on stderr.
    pub(crate) fn expect_failure(self, text: &str) -> Result<Self, String> {
        if self.status.success() || self.status.signal().is_some() {
            return Err(self.describe("should have failed with an error"));
        }
        match self.stderr.contains(text) {
            true => Ok(self),
            false => Err(self.describe(&format!("should have said {text:?}"))),
        }
    }

    /// Whether it succeeded; an error unless that was its own decision, told as
    /// errors are.
    pub(crate) fn decided(&self, what: &str) -> Result<bool, String> {
        let decided = match self.status.code() {
            Some(0) => true,
            Some(1) => self.stderr.starts_with("error: ") && !self.stderr.contains("panicked"),
            _ => false,
        };
        match decided {
            true => Ok(self.status.success()),
            false => Err(self.describe(&format!("({what}) should have failed with an error"))),
        }
    }

    /// What happened, for the message of a failed test.
    pub(crate) fn describe(&self, complaint: &str) -> String {
        let Self {
            status,
            shown,
            stdout,
            stderr,
        } = self;
        format!("{shown} {complaint}; {status}\n-- stdout\n{stdout}\n-- stderr\n{stderr}")
    }
}

/// Where the icecore under test lies.
pub(crate) fn program() -> &'static str {
    env!("CARGO_BIN_EXE_icecore")
}

/// A text file, whatever its bytes; empty where there is none.
pub(crate) fn lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
