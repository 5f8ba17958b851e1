//! The restore engine: pids, namespaces, parents, clocks, callers.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::icecore::Icecore;
use common::perl::{SLEEP, end, exists, parent, perl, settled, state, status_line};
use common::target::Target;
use common::wait;
use icecore::{PidPolicy, Restore};
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

    /// The pid that a restore with `--pidfile pid` has written.
    fn pidfile(&self, name: &str) -> Result<u32> {
        let text = fs::read_to_string(self.images().join(name)).map_err(|e| e.to_string())?;
        text.trim().parse().map_err(|e| format!("{text:?}: {e}"))
    }
}

mod pids {
    use super::*;

    #[test]
    fn a_taken_pid_is_named_with_its_owner() -> Result {
        let (scratch, mut target) = (Scratch::new()?, perl(SLEEP)?);
        target.dump_running(&scratch.images(), &[])?;
        let taken = format!("pid {}: is taken by another process (perl)", target.pid());
        scratch.restore().arg("-d").run()?.expect_failure(&taken)?;
        target.alive()
    }

    /// The kernel refuses a number that only a process group has, although no
    /// process has it.
    #[test]
    fn a_process_group_that_has_the_pid_is_named_with_a_member() -> Result {
        use std::os::unix::process::CommandExt;
        let scratch = Scratch::new()?;
        let in_group = |group: u32| {
            let mut command = Command::new("perl");
            command.args(["-e", SLEEP]).current_dir("/");
            command.process_group(group.cast_signed());
            command.stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let target = Target::spawn(&mut command)?;
            settled(target.pid()).map(|()| target)
        };
        let mut leader = in_group(0)?;
        let member = in_group(leader.pid())?;
        leader.dump(&scratch.images(), &[])?;
        let named = format!("the process group of pid {} (perl)", member.pid());
        let restore = scratch.restore().arg("-d");
        restore.run()?.expect_failure(&named)?;
        drop(member);
        leader.restore(&scratch.images(), &[]).map(drop)
    }

    #[test]
    fn new_ones_let_a_copy_live_beside_the_original() -> Result {
        let (scratch, mut target) = (
            Scratch::new()?,
            perl("sleep 1; $$ != getppid or die; sleep 1000")?,
        );
        target.dump_running(&scratch.images(), &[])?;
        let restore = scratch
            .restore()
            .args(["-d", "--pids", "new", "--pidfile", "pid"]);
        let done = restore.succeed()?;
        let copy = scratch.pidfile("pid").map_err(|e| done.describe(&e))?;
        assert_ne!(copy, target.pid());
        assert_eq!(state(copy)?, 'S');
        target.alive()?;
        end(copy);
        Ok(())
    }

    /// The line that the refusal of a dump from outside names. The namespace
    /// must not end under the dump that ends its last process.
    #[test]
    fn a_copy_in_a_namespace_is_dumped_from_inside() -> Result {
        let (scratch, mut target) = (Scratch::new()?, perl(SLEEP)?);
        target.dump_running(&scratch.images(), &[])?;
        let restore = scratch
            .restore()
            .args(["-d", "--pids", "ns", "--pidfile", "pid"]);
        restore.succeed()?;
        let copy = scratch.pidfile("pid")?;
        let mut inside = Command::new("nsenter");
        inside.args(["--target", &copy.to_string(), "--mount", "--pid", "--"]);
        inside.args([common::icecore::program(), "dump", "--no-default-config"]);
        inside.args(["--tree", &target.pid().to_string(), "--images-dir"]);
        inside
            .arg(scratch.path().join("again"))
            .stdin(Stdio::null());
        let dumped = inside.output().map_err(|e| format!("nsenter: {e}"))?;
        end(copy);
        assert!(dumped.status.success(), "{dumped:?}");
        Ok(())
    }

    #[test]
    fn namespaces_hold_three_copies_side_by_side() -> Result {
        let (scratch, mut target) = (Scratch::new()?, perl(SLEEP)?);
        let pid = target.pid();
        target.dump_running(&scratch.images(), &[])?;
        let mut copies = BTreeSet::new();
        for name in ["a", "b", "c"] {
            let restore = scratch
                .restore()
                .args(["-d", "--pids", "ns", "--pidfile", name]);
            restore.succeed()?;
            copies.insert(scratch.pidfile(name)?);
        }
        assert_eq!(copies.len(), 3);
        for &copy in &copies {
            let inner = status_line(copy, "NSpid:")?;
            assert!(inner.ends_with(&format!("\t{pid}")), "{inner}");
            let mounts = fs::read_to_string(format!("/proc/{copy}/mounts"));
            let mounts = mounts.map_err(|e| e.to_string())?;
            let procs = mounts
                .lines()
                .filter(|l| l.contains(" /proc proc "))
                .count();
            assert!(procs >= 2, "no /proc of its own:\n{mounts}");
        }
        target.alive()?;
        for copy in copies {
            let init = parent(copy)?;
            let raw = Pid::from_raw(copy.cast_signed()).ok_or("pid")?;
            kill_process(raw, Signal::TERM).map_err(|e| e.to_string())?;
            let init = Pid::from_raw(init.cast_signed()).ok_or("pid")?;
            let waited = waitpid(Some(init), WaitOptions::empty()).map_err(|e| e.to_string())?;
            let (_, status) = waited.ok_or("no status")?;
            assert_eq!(status.exit_status(), Some(128 + libc::SIGTERM));
        }
        Ok(())
    }

    #[test]
    fn a_namespace_passes_the_exit_status_on() -> Result {
        let (scratch, mut target) = (Scratch::new()?, perl("sleep 2; exit 7")?);
        target.dump(&scratch.images(), &[])?;
        let done = scratch.restore().args(["--pids", "ns"]).run()?;
        assert_eq!(done.status.code(), Some(7), "{}", done.describe("status"));
        Ok(())
    }
}

mod parents {
    use super::*;

    #[test]
    fn in_the_foreground_the_status_is_the_tasks() -> Result {
        let (scratch, mut target) = (Scratch::new()?, perl("sleep 2; exit 7")?);
        target.dump(&scratch.images(), &[])?;
        let done = scratch.restore().run()?;
        assert_eq!(done.status.code(), Some(7), "{}", done.describe("status"));
        Ok(())
    }

    #[test]
    fn in_the_foreground_signals_are_passed_on() -> Result {
        let (scratch, mut target) = (
            Scratch::new()?,
            perl("$SIG{TERM} = sub { exit 9 }; sleep 1000 while 1")?,
        );
        target.dump(&scratch.images(), &[])?;
        let pid = target.pid();
        let running = scratch.restore().start()?;
        wait::until("the task to run", wait::LIMIT, || {
            Ok((exists(pid)
                && state(pid)? == 'S'
                && status_line(pid, "TracerPid")?.ends_with("\t0"))
            .then_some(()))
        })?;
        std::thread::sleep(Duration::from_millis(300));
        let icecore = Pid::from_raw(running.pid().cast_signed()).ok_or("pid")?;
        kill_process(icecore, Signal::TERM).map_err(|e| e.to_string())?;
        let done = running.finish()?;
        assert_eq!(done.status.code(), Some(9), "{}", done.describe("status"));
        Ok(())
    }

    #[test]
    fn a_sibling_is_a_child_of_the_caller() -> Result {
        let (scratch, mut target) = (Scratch::new()?, perl("sleep 3; exit 5")?);
        target.dump(&scratch.images(), &[])?;
        scratch.restore().arg("-S").succeed()?;
        assert_eq!(parent(target.pid())?, std::process::id());
        let pid = Pid::from_raw(target.pid().cast_signed()).ok_or("pid")?;
        let waited = waitpid(Some(pid), WaitOptions::empty()).map_err(|e| e.to_string())?;
        assert_eq!(waited.and_then(|(_, s)| s.exit_status()), Some(5));
        Ok(())
    }

    #[test]
    fn a_parent_death_signal_does_not_come_from_the_restore() -> Result {
        // prctl(PR_SET_PDEATHSIG, SIGTERM) after which the parent lives on.
        let (scratch, mut target) = (
            Scratch::new()?,
            perl("syscall 157, 1, 15; sleep 1000 while 1")?,
        );
        target.dump(&scratch.images(), &[])?;
        target.restore(&scratch.images(), &[])?;
        std::thread::sleep(Duration::from_millis(200));
        target.alive()?;

        let again = scratch.path().join("again");
        target.dump(&again, &[])?;
        let restore = Icecore::new(scratch.path(), "restore")
            .arg("-D")
            .arg(&again);
        let foreground = restore.start()?;
        let pid = target.pid();
        wait::until("the task to run", wait::LIMIT, || {
            Ok((exists(pid) && status_line(pid, "TracerPid")?.ends_with("\t0")).then_some(()))
        })?;
        std::thread::sleep(Duration::from_millis(200));
        assert!(exists(pid) && state(pid)? == 'S');
        drop(foreground); // kills icecore: now the signal comes
        wait::until("the parent-death signal", wait::LIMIT, || {
            let raw = Pid::from_raw(pid.cast_signed()).ok_or("pid")?;
            match waitpid(Some(raw), WaitOptions::NOHANG) {
                Ok(Some((_, status))) => Ok(Some(status.terminating_signal())),
                Ok(None) | Err(rustix::io::Errno::CHILD) if exists(pid) => Ok(None),
                // Killed before it became ours, it can be reaped with icecore.
                Err(rustix::io::Errno::CHILD) => Ok(Some(None)),
                other => Err(format!("{other:?}")),
            }
        })
        .map(|signal| assert!(matches!(signal, None | Some(libc::SIGTERM)), "{signal:?}"))
    }
}

mod stopped {
    use super::*;

    fn until_stopped(pid: u32) -> Result {
        wait::until("it to be stopped", wait::LIMIT, || {
            Ok((state(pid)? == 'T').then_some(()))
        })
    }

    #[test]
    fn a_stopped_task_stays_stopped_and_goes_on_when_told() -> Result {
        let (scratch, mut target) = (Scratch::new()?, perl("sleep 1 while 1")?);
        target.signal(Signal::STOP)?;
        until_stopped(target.pid())?;
        target.dump(&scratch.images(), &[])?;
        target.restore(&scratch.images(), &[])?;
        assert_eq!(state(target.pid())?, 'T');
        target.signal(Signal::CONT)?;
        settled(target.pid())
    }

    #[test]
    fn a_task_can_be_left_stopped() -> Result {
        let (scratch, mut target) = (Scratch::new()?, perl("sleep 1 while 1")?);
        target.dump(&scratch.images(), &[])?;
        target.restore(&scratch.images(), &["-s"])?;
        assert_eq!(state(target.pid())?, 'T');
        target.signal(Signal::CONT)?;
        settled(target.pid())
    }
}

mod clocks {
    use super::*;

    fn offset(pid: u32) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{pid}/timens_offsets"));
        let text = text.map_err(|e| e.to_string())?;
        let mut words = text.split_whitespace().skip(1);
        let mut number = || words.next().and_then(|w| w.parse::<f64>().ok());
        let (seconds, nanos) = (number().ok_or("offset")?, number().ok_or("offset")?);
        Ok(seconds + nanos / 1e9)
    }

    #[test]
    fn monotonic_time_stands_still_while_the_task_is_away() -> Result {
        let (scratch, mut target) = (Scratch::new()?, perl(SLEEP)?);
        let mut away = 0.0;
        for round in 0..3 {
            let images = scratch.path().join(round.to_string());
            let gone = Instant::now();
            target.dump(&images, &[])?;
            std::thread::sleep(Duration::from_millis(600));
            target.restore(&images, &[])?;
            away += gone.elapsed().as_secs_f64();
            let offset = offset(target.pid())?;
            let least = -away;
            let most = -0.6 * f64::from(round + 1);
            assert!(
                (least..=most).contains(&offset),
                "{offset} not in {least}..{most}"
            );
        }
        Ok(())
    }

    #[test]
    fn the_hosts_clocks_can_be_had() -> Result {
        let (scratch, mut target) = (Scratch::new()?, perl(SLEEP)?);
        target.dump(&scratch.images(), &[])?;
        target.restore(&scratch.images(), &["--clock", "host"])?;
        assert_eq!(offset(target.pid())?, 0.0);
        Ok(())
    }
}

mod library {
    use super::*;

    #[test]
    fn four_threads_restore_copies_at_once() -> Result {
        let (scratch, mut target) = (Scratch::new()?, perl("sleep 3; exit 6")?);
        target.dump(&scratch.images(), &[])?;
        let images = scratch.images();
        std::thread::scope(|scope| {
            let copies: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let restore = Restore::new(&images).pids(PidPolicy::Namespace);
                        let report = restore.run().map_err(|e| format!("{e:?}"))?;
                        let init = report.awaited.ok_or("no init")?;
                        let init = Pid::from_raw(init.cast_signed()).ok_or("pid")?;
                        let waited = waitpid(Some(init), WaitOptions::empty());
                        let status = waited.map_err(|e| e.to_string())?;
                        Ok(status.and_then(|(_, s)| s.exit_status()))
                    })
                })
                .collect();
            for copy in copies {
                let status: Result<Option<i32>> = copy.join().map_err(|_| "panic")?;
                assert_eq!(status?, Some(6));
            }
            Ok(())
        })
    }

    #[test]
    fn the_callers_clocks_and_signal_mask_stay() -> Result {
        let (scratch, mut target) = (Scratch::new()?, perl(SLEEP)?);
        target.dump(&scratch.images(), &[])?;
        let before = (
            status_line(std::process::id(), "SigBlk")?,
            fs::read_link("/proc/thread-self/ns/time_for_children"),
        );
        let report = Restore::new(scratch.images())
            .run()
            .map_err(|e| format!("{e:?}"))?;
        let after = (
            status_line(std::process::id(), "SigBlk")?,
            fs::read_link("/proc/thread-self/ns/time_for_children"),
        );
        assert_eq!(before.0, after.0);
        assert_eq!(before.1.ok(), after.1.ok());
        report.pid.map(end).ok_or_else(|| "no pid".to_owned())
    }
}

#[test]
fn ten_cycles_in_a_row() -> Result {
    let (scratch, mut target) = (
        Scratch::new()?,
        perl("for (1..1e9) { select undef, undef, undef, 0.01 }")?,
    );
    for round in 0..10 {
        let images = scratch.path().join(round.to_string());
        target.dump(&images, &[])?;
        target.restore(&images, &[])?;
    }
    target.alive()
}
