//! What becomes of a restored process.

use super::*;
use rustix::process::Signal;

fn program(script: &str) -> Result<Target> {
    let mut command = Command::new("setsid");
    quiet(command.args(["/usr/bin/python3", "-c", script]));
    Target::spawn(&mut command)
}

/// Waits until the target sleeps in `call`.
fn asleep(target: &Target) -> Result {
    let syscall = PathBuf::from(format!("/proc/{}/syscall", target.pid()));
    common::wait::until("the target to sleep", common::wait::LIMIT, || {
        let text = common::icecore::lossy(&syscall);
        // clock_nanosleep or pause.
        Ok((text.starts_with("230 ") || text.starts_with("34 ")).then_some(()))
    })
}

#[test]
fn gives_its_exit_status_to_icecore_in_the_foreground() -> Result {
    let mut target = program("import time, sys; time.sleep(1); sys.exit(42)")?;
    asleep(&target)?;
    let scratch = Scratch::new()?;
    target.dump(&scratch.images(), &[])?;
    let done = scratch.restore().run()?;
    match done.status.code() {
        Some(42) => Ok(()),
        _ => Err(done.describe("should have ended with 42")),
    }
}

#[test]
fn gets_the_signals_of_icecore_in_the_foreground() -> Result {
    let mut target = program("import signal; signal.pause()")?;
    asleep(&target)?;
    let scratch = Scratch::new()?;
    target.dump(&scratch.images(), &[])?;
    let restore = scratch.restore().args(["--pidfile", "pidfile"]).start()?;
    let pidfile = scratch.images().join("pidfile");
    common::wait::until("the target to run", common::wait::LIMIT, || {
        Ok(pidfile.exists().then_some(()))
    })?;
    let pid = rustix::process::Pid::from_raw(restore.pid().cast_signed()).ok_or("no pid")?;
    rustix::process::kill_process(pid, Signal::TERM).map_err(|e| e.to_string())?;
    let done = restore.finish()?;
    match done.status.code() {
        Some(143) => Ok(()),
        _ => Err(done.describe("should have ended with 128 + SIGTERM")),
    }
}

#[test]
fn outlives_a_hangup_that_nohup_has_icecore_ignore() -> Result {
    let mut target = program("import time, sys; time.sleep(1); sys.exit(42)")?;
    asleep(&target)?;
    let scratch = Scratch::new()?;
    target.dump(&scratch.images(), &[])?;
    let restore = Icecore::by(scratch.path(), Command::new("nohup"), "restore");
    let restore = restore.arg("-D").arg(scratch.images());
    let restore = restore.args(["--pidfile", "pidfile"]).start()?;
    let pidfile = scratch.images().join("pidfile");
    common::wait::until("the target to run", common::wait::LIMIT, || {
        Ok(pidfile.exists().then_some(()))
    })?;
    let pid = rustix::process::Pid::from_raw(restore.pid().cast_signed()).ok_or("no pid")?;
    rustix::process::kill_process(pid, Signal::HUP).map_err(|e| e.to_string())?;
    let done = restore.finish()?;
    match done.status.code() {
        Some(42) => Ok(()),
        _ => Err(done.describe("should have ended with 42")),
    }
}

#[test]
fn is_a_child_of_icecores_caller_when_asked() -> Result {
    let (scratch, mut target) = (Scratch::new()?, sleeper()?);
    target.dump(&scratch.images(), &[])?;
    target.restore(&scratch.images(), &["-S"])?;
    let status = common::icecore::lossy(Path::new(&format!("/proc/{}/status", target.pid())));
    assert!(
        status.contains(&format!("PPid:\t{}\n", std::process::id())),
        "{status}"
    );
    Ok(())
}

#[test]
fn is_stopped_when_asked() -> Result {
    let (scratch, mut target) = (Scratch::new()?, sleeper()?);
    target.dump(&scratch.images(), &[])?;
    target.restore(&scratch.images(), &["-s"])?;
    let stat = format!("/proc/{}/stat", target.pid());
    common::wait::until("the target to stop", common::wait::LIMIT, || {
        Ok(common::icecore::lossy(Path::new(&stat))
            .contains(") T ")
            .then_some(()))
    })?;
    target.signal(Signal::CONT)?;
    common::wait::until("the target to go on", common::wait::LIMIT, || {
        Ok(common::icecore::lossy(Path::new(&stat))
            .contains(") S ")
            .then_some(()))
    })
}

#[test]
fn is_not_created_by_a_dry_run() -> Result {
    let (scratch, mut target) = (Scratch::new()?, sleeper()?);
    target.dump(&scratch.images(), &[])?;
    scratch.restore().args(["-d", "--dry-run"]).succeed()?;
    assert!(!Path::new(&format!("/proc/{}", target.pid())).exists());
    target.restore(&scratch.images(), &[]).map(drop)
}

#[test]
fn is_refused_while_its_pid_is_taken() -> Result {
    let (scratch, mut target) = (Scratch::new()?, sleeper()?);
    target.dump_running(&scratch.images(), &[])?;
    let done = scratch.restore().arg("-d").run()?;
    done.expect_failure(&format!("pid {}", target.pid()))?;
    target.alive()
}

#[test]
fn joins_our_session_when_its_own_is_led_from_outside() -> Result {
    let mut command = Command::new("sleep");
    quiet(command.arg("300"));
    let (scratch, target) = (Scratch::new()?, Target::spawn(&mut command)?);
    let mut target = started(target, "sleep")?;
    target.dump(&scratch.images(), &[])?;
    target.restore(&scratch.images(), &[])?;
    let session = |pid: u32| {
        let stat = common::icecore::lossy(Path::new(&format!("/proc/{pid}/stat")));
        stat.rsplit(") ")
            .next()
            .and_then(|s| s.split(' ').nth(3).map(str::to_owned))
    };
    assert_eq!(session(target.pid()), session(std::process::id()));
    Ok(())
}

#[test]
fn is_left_stopped_by_a_dump_when_asked() -> Result {
    let (scratch, mut target) = (Scratch::new()?, sleeper()?);
    scratch.dump(target.pid()).arg("-s").succeed()?;
    let stat = format!("/proc/{}/stat", target.pid());
    common::wait::until("the target to stop", common::wait::LIMIT, || {
        Ok(common::icecore::lossy(Path::new(&stat))
            .contains(") T ")
            .then_some(()))
    })?;
    target.alive()
}
