//! The command line from outside: bad input, each refused with one clear
//! sentence and what to do; what scripts and programs rely on.

#[path = "../common/mod.rs"]
mod common;

mod a_restored_process;
mod another_machine;
mod bad_directory;
mod bad_target;
mod options;
mod privileges;
mod programs_rely_on;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::icecore::{Finished, Icecore};
use common::target::Target;
use tempfile::TempDir;

type Result<T = ()> = std::result::Result<T, String>;

/// A directory for one test.
struct Scratch(TempDir);

impl Scratch {
    fn new() -> Result<Self> {
        let dir = TempDir::with_prefix("icecore-cli-").map_err(|e| e.to_string())?;
        Ok(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn images(&self) -> PathBuf {
        self.path().join("image")
    }

    fn dump(&self, pid: u32) -> Icecore {
        let dump = Icecore::new(self.path(), "dump").args(["-t", &pid.to_string()]);
        dump.arg("-D").arg(self.images())
    }

    fn restore(&self) -> Icecore {
        Icecore::new(self.path(), "restore")
            .arg("-D")
            .arg(self.images())
    }
}

fn io<T>(result: std::io::Result<T>) -> Result<T> {
    result.map_err(|e| e.to_string())
}

/// A process that sleeps, in a session of its own.
fn sleeper() -> Result<Target> {
    let mut command = Command::new("setsid");
    command.args(["sleep", "300"]);
    quiet(&mut command);
    started(Target::spawn(&mut command)?, "sleep")
}

/// The target, once it has become the program called `name`.
fn started(target: Target, name: &str) -> Result<Target> {
    let comm = PathBuf::from(format!("/proc/{}/comm", target.pid()));
    common::wait::until("the program to start", common::wait::LIMIT, || {
        Ok((common::icecore::lossy(&comm).trim_end() == name).then_some(()))
    })?;
    Ok(target)
}

fn quiet(command: &mut Command) {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
}

/// The error is one: a line, its help, nothing else; nothing is left behind.
fn is_one_sentence(done: &Finished, scratch: &Scratch) -> Result {
    let mut lines = done.stderr.lines();
    let first = lines.next().unwrap_or_default();
    let tidy = first.starts_with("error: ") && !first.ends_with('.');
    let rest_helps = lines.all(|line| line.trim_start().starts_with("help: "));
    if !tidy || !rest_helps {
        return Err(done.describe("should have said one sentence and what helps"));
    }
    match scratch.images().exists() {
        true => Err(done.describe("left a directory behind")),
        false => Ok(()),
    }
}

fn dump_is_refused(pid: u32, text: &str) -> Result {
    let scratch = Scratch::new()?;
    let done = scratch.dump(pid).run()?.expect_failure(text)?;
    is_one_sentence(&done, &scratch)
}

#[test]
fn the_demo_does_what_it_says() -> Result {
    let scratch = Scratch::new()?;
    let demo = || Icecore::new(scratch.path(), "demo");
    let done = demo().succeed()?;
    for text in [
        "It is put to sleep",
        "it is gone",
        "It wakes up",
        "none is missing",
    ] {
        assert!(done.stdout.contains(text), "{}", done.describe(text));
    }
    let object: serde_json::Value =
        serde_json::from_str(&demo().arg("--json").succeed()?.stdout).map_err(|e| e.to_string())?;
    assert!(
        object["rows_after"].as_u64() > object["rows_before"].as_u64(),
        "{object}"
    );
    Ok(())
}

#[test]
fn check_lists_what_stands_in_the_way_of_a_dump() -> Result {
    let scratch = Scratch::new()?;
    let check = |target: &Target| {
        Icecore::new(scratch.path(), "check")
            .args(["--pid", &target.pid().to_string()])
            .run()
    };
    let mut free = sleeper()?;
    let done = check(&free)?.expect_success()?;
    assert!(
        done.stdout.contains("nothing stands in the way"),
        "{}",
        done.stdout
    );
    free.alive()?;

    let mut command = Command::new("setsid");
    let (_stdout, out) = io(std::io::pipe())?;
    let (_stderr, err) = io(std::io::pipe())?;
    command.args(["sleep", "300"]).stdout(out).stderr(err);
    let mut held = started(Target::spawn(command.stdin(Stdio::null()))?, "sleep")?;
    let done = check(&held)?.expect_failure("2 things cannot be carried over")?;
    let lists = |fd: u32| {
        done.stderr
            .contains(&format!("pid {} fd {fd}: ", held.pid()))
    };
    assert!(lists(1) && lists(2), "{}", done.stderr);
    held.alive()
}

#[test]
fn check_tells_what_is_there() -> Result {
    let scratch = Scratch::new()?;
    let check = |words: &[&str]| Icecore::new(scratch.path(), "check").args(words).run();
    check(&[])?.expect_success()?;
    let all = check(&["--all"])?.expect_success()?;
    assert!(
        all.stdout.contains("pidfd_getfd             yes"),
        "{}",
        all.stdout
    );
    check(&["--feature", "kcmp"])?.expect_success()?;
    check(&["--feature", "no_such"])?.expect_failure("there is no feature no_such")?;
    Ok(())
}
