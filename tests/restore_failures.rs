//! What is left of a restore that fails or is killed at any point: nothing.
//!
//! One test only: it counts the children of its process.

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::icecore::Icecore;
use common::target::Target;
use common::wait;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
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

/// A perl program in a session of its own.
fn perl(program: &str) -> Result<Target> {
    let mut command = Command::new("setsid");
    command.args(["perl", "-e", program]).current_dir("/");
    command.stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let target = Target::spawn(&mut command)?;
    settled(target.pid())?;
    Ok(target)
}

/// Waits until the process sleeps in perl.
fn settled(pid: u32) -> Result {
    wait::until("perl to sleep", wait::LIMIT, || {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).map_err(|e| e.to_string())?;
        Ok((comm == "perl\n" && state(pid)? == 'S').then_some(()))
    })
}

fn stat_fields(pid: u32) -> Result<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    let stat = stat.map_err(|e| format!("stat of {pid}: {e}"))?;
    let (_, rest) = stat.rsplit_once(')').ok_or("stat")?;
    Ok(rest.split_whitespace().map(str::to_owned).collect())
}

fn state(pid: u32) -> Result<char> {
    let fields = stat_fields(pid)?;
    fields[0].chars().next().ok_or_else(|| "state".to_owned())
}

fn parent(pid: u32) -> Result<u32> {
    stat_fields(pid)?[1].parse().map_err(|e| format!("{e}"))
}

fn status_line(pid: u32, key: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| e.to_string())?;
    let line = status.lines().find(|l| l.starts_with(key));
    line.map(str::to_owned).ok_or_else(|| format!("no {key}"))
}

fn exists(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap_or(true)
}

/// Kills a process and reaps it if it is a child of ours.
fn end(pid: u32) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
}

const SLEEP: &str = "sleep 1000 while 1";

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
