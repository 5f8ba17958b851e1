//! What scripts and programs rely on: JSON, figures, files, stages, signals.

use super::*;
use serde_json::Value;

fn json(done: &Finished) -> Result<Value> {
    serde_json::from_str(&done.stdout).map_err(|e| done.describe(&format!("no JSON: {e}")))
}

#[test]
fn an_error_as_one_object_on_stdout() -> Result {
    let scratch = Scratch::new()?;
    let done = scratch
        .dump(9_999_999)
        .arg("--json")
        .run()?
        .expect_failure("")?;
    let object = json(&done)?;
    assert_eq!(object["ok"], false);
    let message = object["error"]["message"].as_str().unwrap_or_default();
    let causes = object["error"]["causes"].to_string();
    assert!(
        message.contains("9999999") || causes.contains("9999999"),
        "{object}"
    );
    assert_eq!(done.stderr, "");
    Ok(())
}

#[test]
fn a_usage_error_as_one_object_too() -> Result {
    let scratch = Scratch::new()?;
    let dump = Icecore::new(scratch.path(), "dump").args(["--json", "--frobnicate"]);
    let object = json(&dump.run()?.expect_failure("")?)?;
    assert_eq!(object["ok"], false);
    Ok(())
}

#[test]
fn results_as_one_object() -> Result {
    let (scratch, target) = (Scratch::new()?, sleeper()?);
    let done = scratch
        .dump(target.pid())
        .args(["-R", "--json"])
        .succeed()?;
    let object = json(&done)?;
    assert_eq!(object["ok"], true);
    assert!(
        object["stats"]["bytes_written"].as_u64() > Some(0),
        "{object}"
    );
    assert!(object["stats"]["frozen_us"].as_u64() > Some(0), "{object}");
    assert!(object["notes"].is_array(), "{object}");
    let written = io(fs::read(scratch.images().join("stats.json")))?;
    let written: Value = serde_json::from_slice(&written).map_err(|e| e.to_string())?;
    assert_eq!(written["bytes_written"], object["stats"]["bytes_written"]);
    Ok(())
}

#[test]
fn figures_as_lines() -> Result {
    let (scratch, target) = (Scratch::new()?, sleeper()?);
    let done = scratch
        .dump(target.pid())
        .args(["-R", "--display-stats"])
        .succeed()?;
    let has = |name: &str| done.stdout.lines().any(|line| line.starts_with(name));
    for name in [
        "freezing_us: ",
        "frozen_us: ",
        "total_us: ",
        "pages_written: ",
        "engine: ",
    ] {
        assert!(has(name), "{name} is missing in {}", done.stdout);
    }
    Ok(())
}

#[test]
fn a_pidfile_a_log_file_and_nothing_else() -> Result {
    let (scratch, mut target) = (Scratch::new()?, sleeper()?);
    let dumped = target.dump(&scratch.images(), &["-o", "dump.log", "-v4"])?;
    assert_eq!((dumped.stdout.as_str(), dumped.stderr.as_str()), ("", ""));
    let options = ["--pidfile", "target.pid", "-o", "restore.log", "-v4"];
    target.restore(&scratch.images(), &options)?;
    let read = |name| io(fs::read_to_string(scratch.images().join(name)));
    assert_eq!(read("target.pid")?, target.pid().to_string());
    assert!(!read("dump.log")?.is_empty() && !read("restore.log")?.is_empty());
    Ok(())
}

#[test]
fn what_cannot_be_told_at_the_end_is_refused_at_the_start() -> Result {
    let (scratch, mut target) = (Scratch::new()?, sleeper()?);
    target.dump(&scratch.images(), &[])?;
    for (option, place) in [("--pidfile", "/nonexistent/pid"), ("--status-fd", "977")] {
        let restore = scratch.restore().args(["-d", option, place]).run()?;
        restore.expect_failure(place)?;
        let process = format!("/proc/{}", target.pid());
        assert!(
            !std::path::Path::new(&process).exists(),
            "{option}: it runs"
        );
    }
    Ok(())
}

#[test]
fn a_zero_byte_on_the_status_descriptor() -> Result {
    let (scratch, mut target) = (Scratch::new()?, sleeper()?);
    let (status, target_pid) = (scratch.path().join("status"), target.pid());
    // The file is opened by the shell, as a caller would.
    let script = "exec 7>\"$1\"; shift; exec \"$@\" --status-fd 7";
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script, "sh"])
        .arg(&status)
        .arg(common::icecore::program());
    shell.args([
        "dump",
        "--no-default-config",
        "-R",
        "-t",
        &target_pid.to_string(),
        "-D",
    ]);
    let output = io(shell.arg(scratch.images()).stdin(Stdio::null()).output())?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(io(fs::read(&status))?, [0]);
    target.alive()
}

#[test]
fn an_interrupt_that_harms_nobody() -> Result {
    for stage in ["pre-dump", "post-dump"] {
        let (scratch, mut target) = (Scratch::new()?, sleeper()?);
        // The script's parent is icecore, another thread of which takes the
        // signal: it is given the time.
        let body =
            format!("[ $CRTOOLS_SCRIPT_ACTION != {stage} ] || {{ kill -INT $PPID; sleep 0.5; }}");
        let script = action_script(&scratch, &body)?;
        let dump = scratch
            .dump(target.pid())
            .arg("--action-script")
            .arg(script);
        let done = dump.run()?.expect_failure("cancelled")?;
        target.alive().map_err(|e| done.describe(&e))?;
        assert!(
            !scratch.images().join("manifest").exists(),
            "{stage}: left an image"
        );
    }
    Ok(())
}

#[test]
fn an_action_script_at_every_stage() -> Result {
    let (scratch, mut target) = (Scratch::new()?, sleeper()?);
    let said = scratch.path().join("said");
    let line = "$CRTOOLS_SCRIPT_ACTION $CRTOOLS_IMAGE_DIR $CRTOOLS_INIT_PID";
    let script = action_script(&scratch, &format!("echo \"{line}\" >>{}", said.display()))?;
    let options = ["--action-script", script.to_str().ok_or("no path")?];
    target.dump(&scratch.images(), &options)?;
    target.restore(&scratch.images(), &options)?;
    let said = io(fs::read_to_string(&said))?;
    let stages: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let expected = [
        "pre-dump",
        "post-dump",
        "pre-restore",
        "post-restore",
        "pre-resume",
        "post-resume",
    ];
    assert_eq!(stages, expected);
    let images = scratch.images();
    for line in said.lines() {
        assert!(line.contains(images.to_str().ok_or("no path")?), "{line}");
    }
    let last = said.lines().last().unwrap_or_default();
    assert!(last.ends_with(&format!(" {}", target.pid())), "{last}");
    Ok(())
}

#[test]
fn an_action_script_that_fails_fails_the_dump() -> Result {
    for stage in ["pre-dump", "post-dump"] {
        let (scratch, mut target) = (Scratch::new()?, sleeper()?);
        let body = format!("[ $CRTOOLS_SCRIPT_ACTION != {stage} ]");
        let script = action_script(&scratch, &body)?;
        let dump = scratch
            .dump(target.pid())
            .arg("--action-script")
            .arg(script);
        let done = dump.run()?.expect_failure(stage)?;
        target.alive().map_err(|e| done.describe(&e))?;
        assert!(
            !scratch.images().join("manifest").exists(),
            "{stage}: left an image"
        );
    }
    Ok(())
}

#[test]
fn an_action_script_that_fails_fails_the_restore() -> Result {
    let (scratch, mut target) = (Scratch::new()?, sleeper()?);
    target.dump(&scratch.images(), &[])?;
    for stage in ["pre-restore", "post-restore", "pre-resume"] {
        let body = format!("[ $CRTOOLS_SCRIPT_ACTION != {stage} ]");
        let script = action_script(&scratch, &body)?;
        let restore = scratch
            .restore()
            .arg("-d")
            .arg("--action-script")
            .arg(script);
        let done = restore.run()?.expect_failure(stage)?;
        target.reap_killed().map_err(|e| done.describe(&e))?;
    }
    target.restore(&scratch.images(), &[]).map(drop)
}

fn action_script(scratch: &Scratch, body: &str) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = scratch.path().join("action.sh");
    io(fs::write(&path, format!("#!/bin/sh\n{body}\n")))?;
    io(fs::set_permissions(
        &path,
        fs::Permissions::from_mode(0o700),
    ))?;
    Ok(path)
}
