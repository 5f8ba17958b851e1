//! The program the demo puts to sleep: Python where there is one, otherwise
//! icecore itself. Writes a row every 50 ms.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::super::CliError;
use crate::kernel::inherited;

const PYTHON: &str = "/usr/bin/python3";
const PYTHON_PROGRAM: &str = include_str!("worker.py");
const PACE: Duration = Duration::from_millis(50);
/// A row that has not come by then does not come.
const LIMIT: Duration = Duration::from_secs(20);

/// A number and its Fibonacci number.
pub(crate) type Row = (u32, u128);

/// The demo's program, where there is no Python.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    file: PathBuf,
}

impl WorkerArgs {
    /// Writes rows until it is killed, or the numbers become too large.
    pub(crate) fn run(&self) -> Result<ExitCode, CliError> {
        rustix::process::setsid().map_err(|e| failed("make a session", e.into()))?;
        let mut file = fs::File::create(&self.file).map_err(|e| failed("make a file", e))?;
        let (mut a, mut b) = (0_u128, 1_u128);
        for n in 1.. {
            writeln!(file, "{n} {b}").map_err(|e| failed("write a row", e))?;
            let Some(sum) = a.checked_add(b) else {
                break;
            };
            (a, b) = (b, sum);
            std::thread::sleep(PACE);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A directory of the demo's own. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) dir: PathBuf,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self, CliError> {
        let name = format!("icecore-demo-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let made = fs::DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(|e| failed("make a directory", e))?;
        Ok(Self { dir })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.dir) {
            tracing::warn!("remove {}: {e}", self.dir.display());
        }
    }
}

/// The program at work. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Worker {
    pid: Pid,
    alive: bool,
    file: PathBuf,
    /// What it is, for people.
    pub(crate) program: String,
}

impl Worker {
    /// Starts it; it writes into `file`.
    pub(crate) fn start(file: &Path) -> Result<Self, CliError> {
        let (mut command, program) = command()?;
        command
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        inherited::keep_from_children().map_err(|e| failed("keep descriptors", e))?;
        let child = command.spawn().map_err(|e| failed("start a program", e))?;
        let pid = Pid::from_raw(child.id().cast_signed());
        Ok(Self {
            pid: pid.ok_or_else(|| failed("start a program", io::ErrorKind::NotFound.into()))?,
            alive: true,
            file: file.to_owned(),
            program,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    /// The whole rows written so far.
    pub(crate) fn rows(&self) -> Result<Vec<Row>, CliError> {
        let text = match fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(failed("read the rows", e)),
        };
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let row = |line: &str| {
            let (n, value) = line.split_once(' ')?;
            Some((n.parse().ok()?, value.parse().ok()?))
        };
        Ok(whole.lines().filter_map(row).collect())
    }

    /// Waits until there are `more` rows than in `seen`.
    pub(crate) fn rows_beyond(&self, seen: &[Row], more: usize) -> Result<Vec<Row>, CliError> {
        let start = Instant::now();
        loop {
            let rows = self.rows()?;
            if rows.len() >= seen.len() + more {
                return Ok(rows);
            }
            if start.elapsed() > LIMIT {
                let what = format!("pid {} writes no more rows", self.pid());
                return Err(CliError::Demo { what });
            }
            std::thread::sleep(PACE / 5);
        }
    }

    /// Takes note that it has been ended. As its parent and its tracer are the
    /// same process, the dump has reaped it.
    pub(crate) fn is_gone(&mut self) {
        self.alive = false;
    }

    /// Takes note that it has been restored, with the pid it had.
    pub(crate) fn is_back(&mut self) {
        self.alive = true;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.alive && kill_process(self.pid, Signal::KILL).is_ok() {
            // It is our child in any case; if not, there is nothing to reap.
            let _ = waitpid(Some(self.pid), WaitOptions::empty());
        }
    }
}

/// An error unless the rows are those of one undisturbed computation.
pub(crate) fn check(rows: &[Row]) -> Result<(), CliError> {
    let (mut a, mut b) = (0_u128, 1_u128);
    for (&row, n) in rows.iter().zip(1..) {
        if row != (n, b) {
            let what = format!("row {n} is {row:?} instead of {:?}", (n, b));
            return Err(CliError::Demo { what });
        }
        (a, b) = (b, a.wrapping_add(b));
    }
    Ok(())
}

fn command() -> Result<(Command, String), CliError> {
    if Path::new(PYTHON).exists() {
        let mut python = Command::new(PYTHON);
        python.args(["-c", PYTHON_PROGRAM]);
        return Ok((python, "python3 with two threads".to_owned()));
    }
    let this = std::env::current_exe().map_err(|e| failed("find icecore's program", e))?;
    let mut this = Command::new(this);
    this.args(["--no-default-config", "demo-worker"]);
    Ok((this, "a small program".to_owned()))
}

fn failed(what: &'static str, source: io::Error) -> CliError {
    CliError::DemoIo { what, source }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn only_an_undisturbed_computation_passes() {
        assert!(check(&[(1, 1), (2, 1), (3, 2), (4, 3)]).is_ok());
        assert!(check(&[(1, 1), (2, 1), (4, 3)]).is_err());
        assert!(check(&[(1, 1), (2, 1), (3, 3)]).is_err());
    }
}
