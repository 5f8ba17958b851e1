//! What is left of a restore that fails or is killed at any point: nothing.
//!
//! One test only: it counts the children of its process.

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use common::icecore::Icecore;
use common::perl::{SLEEP, end, exists, parent, perl, settled, state, status_line};
use common::wait;
use rustix::process::{Pid, WaitOptions, waitpid};
use tempfile::TempDir;

type Result<T = ()> = std::result::Result<T, String>;

/// A directory for one test.
struct Scratch(TempDir);

impl Scratch {
    fn new() -> Result<Self> {
        let dir = TempDir::with_prefix("icecore-engine-").map_err(|e| e.to_string())?;
        Ok(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn images(&self) -> PathBuf {
        self.path().join("image")
    }

    fn restore(&self) -> Icecore {
        Icecore::new(self.path(), "restore")
            .arg("-D")
            .arg(self.images())
    }
}

#[test]
fn nothing_is_left() -> Result {
    a_restore_that_fails_at_any_step_leaves_nothing()?;
    a_killed_restore_leaves_nothing_or_all()
}

/// Failed at its nth step, a restore leaves nothing.
fn a_restore_that_fails_at_any_step_leaves_nothing() -> Result {
    for args in [&["-d"][..], &[], &["-d", "--pids", "ns"]] {
        let (scratch, mut target) = (Scratch::new()?, perl(SLEEP)?);
        target.dump(&scratch.images(), &[])?;
        let pid = target.pid();
        let mut steps = 0;
        for step in 1.. {
            let fault = format!("restore:{step}");
            let restore = scratch.restore().args(args).env("ICECORE_FAULT", &fault);
            let running = restore.start()?;
            let icecore = running.pid();
            // In the foreground a restore that comes through stays.
            let ended = wait::until(
                &format!("{args:?} step {step}: end or task"),
                wait::LIMIT,
                || {
                    let tracer = status_line(pid, "TracerPid").unwrap_or_default();
                    // A child that has not been taken over is still called icecore.
                    let perl = status_line(pid, "Name").is_ok_and(|name| name.ends_with("perl"));
                    let lives = perl && tracer.ends_with("\t0") && parent(pid) == Ok(icecore);
                    Ok((lives || state(icecore)? == 'Z').then_some(!lives))
                },
            )?;
            if !ended {
                end(pid);
                break;
            }
            let done = running.finish()?;
            if done.status.success() {
                break;
            }
            steps = step;
            assert!(
                done.stderr.contains("restore pid"),
                "{}",
                done.describe("error")
            );
            let left = children()?;
            assert!(
                left.is_empty(),
                "{}",
                done.describe(&format!("left {left:?}"))
            );
            assert!(!exists(pid), "{}", done.describe("left its pid"));
        }
        assert!(steps > 10, "only {steps} steps");
        end_children()?;
    }
    Ok(())
}

/// Killed at its nth ptrace request, icecore leaves nothing, or the task as
/// it was.
fn a_killed_restore_leaves_nothing_or_all() -> Result {
    let (scratch, mut target) = (Scratch::new()?, perl(SLEEP)?);
    target.dump(&scratch.images(), &[])?;
    let pid = target.pid();
    let (mut nothing, mut all) = (0, 0);
    for request in 1.. {
        let fault = format!("ptrace:{request}");
        let restore = scratch.restore().arg("-d").env("ICECORE_FAULT", &fault);
        let done = restore.run()?;
        let through = done.status.success();
        if through || lives(pid)? {
            all += 1;
            settled(pid)?;
        } else {
            nothing += 1;
        }
        end_children()?;
        assert!(!exists(pid), "request {request} left pid {pid}");
        if through {
            break;
        }
        assert_eq!(
            done.status.signal(),
            Some(libc::SIGKILL),
            "{}",
            done.describe("end")
        );
    }
    assert!(nothing > 50, "only {nothing} points");
    #[allow(clippy::print_stdout)] // the count is a result
    {
        println!("{nothing} points left nothing, {all} the task");
    }
    Ok(())
}

/// Whether the process lives once everything that is to die has died.
fn lives(pid: u32) -> Result<bool> {
    let mut seen_alive = 0;
    wait::until("a decision", wait::LIMIT, || {
        let _ = waitpid(Pid::from_raw(pid.cast_signed()), WaitOptions::NOHANG);
        let Ok(tracer) = status_line(pid, "TracerPid") else {
            return Ok(Some(false));
        };
        // The kernel lets go of a tracee before it kills it.
        let alive = tracer.ends_with("\t0") && matches!(state(pid), Ok('S' | 'R'));
        seen_alive = if alive { seen_alive + 1 } else { 0 };
        Ok((seen_alive > 10).then_some(true))
    })
}

/// Children of this process, which adopts whatever restores leave.
fn children() -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for tid in fs::read_dir("/proc/self/task").map_err(|e| e.to_string())? {
        let path = tid.map_err(|e| e.to_string())?.path().join("children");
        let text = fs::read_to_string(path).unwrap_or_default();
        found.extend(
            text.split_whitespace()
                .filter_map(|w| w.parse::<u32>().ok()),
        );
    }
    Ok(found)
}

fn end_children() -> Result {
    while let Some(&pid) = children()?.first() {
        end(pid);
    }
    Ok(())
}
