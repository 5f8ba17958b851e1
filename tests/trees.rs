//! Restores of whole trees: what is left of one that fails, copies side by
//! side, what is said about trees that cannot be had.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::icecore::Icecore;
use common::target::Target;
use common::{tree, wait};
use rustix::process::{Pid, WaitOptions, waitpid};
use tempfile::TempDir;

type Result<T = ()> = std::result::Result<T, String>;

/// Each test counts the children of this process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory for one test.
struct Scratch(TempDir);

impl Scratch {
    fn new() -> Result<Self> {
        let dir = TempDir::with_prefix("icecore-tree-").map_err(|e| e.to_string())?;
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

/// One that sleeps below one that sleeps, one in a session whose leader has gone,
/// one that is stopped, and one that has ended.
const FAMILY: &str = r#"
use POSIX; $SIG{CHLD} = 'DEFAULT';
sub child { my $do = shift; my $pid = fork; if (!$pid) { $do->(); sleep 1000 while 1 } $pid }
require 'syscall.ph' if 0; syscall(157, 36, 1, 0, 0, 0);
child(sub { child(sub {}) });
waitpid(child(sub { POSIX::setsid(); child(sub {}); POSIX::_exit(0) }), 0);
my $stopped = child(sub {}); kill 'STOP', $stopped;
my $ended = child(sub { POSIX::_exit(3) });
sleep 1000 while 1;
"#;

fn family() -> Result<Target> {
    let mut command = Command::new("setsid");
    command.args(["perl", "-e", FAMILY]).current_dir("/");
    command.stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let target = Target::spawn(&mut command)?;
    wait::until("the family", wait::LIMIT, || {
        let below = tree::below(target.pid());
        let states: Vec<String> = below.iter().filter_map(|&pid| state(pid)).collect();
        let settled = ["S", "S", "S", "T", "Z"];
        let mut sorted = states.clone();
        sorted.sort();
        Ok((sorted == settled).then_some(()))
    })?;
    Ok(target)
}

fn state(pid: u32) -> Option<String> {
    tree::stat(pid)?.first().cloned()
}

/// What a tree looks like, its ids left out: each by its depth, its state and
/// whether it leads a session.
fn shape(root: u32) -> Vec<String> {
    let all = [root].into_iter().chain(tree::below(root));
    let mut shape: Vec<String> = all
        .filter_map(|pid| {
            let fields = tree::stat(pid)?;
            Some(format!("{} {}", fields[0], tree::below(pid).len()))
        })
        .collect();
    shape.sort();
    shape
}

/// Takes what a restore has left to this process, which adopts orphans.
fn adopted() -> Vec<u32> {
    tree::children(std::process::id())
}

#[test]
fn a_tree_that_fails_at_any_step_leaves_nothing() -> Result {
    let _alone = alone();
    for args in [&["-d"][..], &["-d", "--pids", "ns"]] {
        let (scratch, mut target) = (Scratch::new()?, family()?);
        let mut pids = tree::below(target.pid());
        pids.push(target.pid());
        target.dump(&scratch.images(), &[])?;
        let mut came_through = false;
        // Every seventh: primes to what repeats.
        for step in (1..20_000).step_by(7) {
            let fault = format!("restore:{step}");
            let restore = scratch.restore().args(args).env("ICECORE_FAULT", &fault);
            let done = restore.run()?;
            if done.decided(&fault)? {
                came_through = true;
                break;
            }
            reap_killed()?;
            let left: Vec<&u32> = pids
                .iter()
                .filter(|&&pid| tree::stat(pid).is_some())
                .collect();
            if !left.is_empty() {
                return Err(done.describe(&format!("left {left:?} behind")));
            }
        }
        assert!(came_through);
        end_adopted();
    }
    Ok(())
}

/// Killed at a request of ptrace, a restore leaves nothing, or the whole tree.
#[test]
fn a_killed_restore_leaves_nothing_or_the_whole_tree() -> Result {
    let _alone = alone();
    let (scratch, mut target) = (Scratch::new()?, family()?);
    let mut pids = tree::below(target.pid());
    pids.push(target.pid());
    target.dump(&scratch.images(), &[])?;
    // The last requests one by one: there it is let go. From the end, which a
    // whole run counts.
    let mut whole = None;
    let mut low = 1;
    let mut high = 1 << 20;
    while low < high {
        let middle = low + (high - low) / 2;
        match killed_at(&scratch, &pids, middle)? {
            true => high = middle,
            false => low = middle + 1,
        }
        whole = Some(low);
    }
    let last = whole.ok_or("no step")?;
    for step in (last.saturating_sub(60)..last).chain((1..last).step_by(211)) {
        killed_at(&scratch, &pids, step)?;
    }
    Ok(())
}

/// Whether the tree was there after a restore that was killed at a step, or
/// was not; it is not afterwards.
fn killed_at(scratch: &Scratch, pids: &[u32], step: u32) -> Result<bool> {
    let fault = format!("ptrace:{step}");
    let done = scratch
        .restore()
        .arg("-d")
        .env("ICECORE_FAULT", &fault)
        .run()?;
    let alive = |pid: &&u32| tree::stat(**pid).is_some() && !tree::is_dead(**pid);
    let settled = || {
        // Its one zombie counts as dead.
        let count = pids.iter().filter(alive).count();
        count == 0 || count == pids.len() - 1
    };
    let all = wait::until("all or none", wait::LIMIT, || {
        // Once more: who is about to be killed is there for a moment.
        if !settled() {
            return Ok(None);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        Ok(settled().then(|| pids.iter().any(|pid| alive(&pid))))
    });
    let all = all.map_err(|e| done.describe(&e))?;
    end_adopted();
    Ok(all)
}

/// What was killed of a detached restore is this process's to reap; nothing
/// else of it is left.
fn reap_killed() -> Result {
    wait::until("killed processes", wait::LIMIT, || {
        for pid in adopted() {
            let raw = Pid::from_raw(pid.cast_signed()).ok_or("pid 0")?;
            let waited = waitpid(Some(raw), WaitOptions::NOHANG).map_err(|e| e.to_string())?;
            if let Some((_, status)) = waited
                && status.terminating_signal() != Some(libc::SIGKILL)
            {
                return Err(format!("pid {pid} has ended otherwise: {status:?}"));
            }
        }
        Ok(adopted().is_empty().then_some(()))
    })
}

fn end_adopted() {
    for pid in adopted() {
        let mut all = vec![pid];
        all.extend(tree::below(pid));
        tree::end(&all);
    }
}

/// Restores the image in `dir` into a namespace; the root's pid.
fn copy(scratch: &Scratch, dir: &Path) -> Result<u32> {
    let pidfile = dir.with_extension("pid");
    let _ = fs::remove_file(&pidfile);
    let restore = Icecore::new(scratch.path(), "restore").arg("-D").arg(dir);
    let restore = restore
        .args(["-d", "--pids", "ns", "--pidfile"])
        .arg(&pidfile);
    restore.succeed()?;
    let text = fs::read_to_string(&pidfile).map_err(|e| e.to_string())?;
    text.trim().parse().map_err(|e| format!("{text:?}: {e}"))
}

/// Copies beside the original, one of them dumped again from inside and woken up
/// once more.
#[test]
fn trees_live_side_by_side_in_namespaces() -> Result {
    let _alone = alone();
    let (scratch, mut target) = (Scratch::new()?, family()?);
    let original = shape(target.pid());
    target.dump_running(&scratch.images(), &[])?;
    let copies = [
        copy(&scratch, &scratch.images())?,
        copy(&scratch, &scratch.images())?,
    ];
    for copy in copies {
        assert_eq!(shape(copy), original);
    }
    let again = scratch.path().join("again");
    let mut inside = Command::new("nsenter");
    inside.args(["--target", &copies[0].to_string(), "--mount", "--pid", "--"]);
    inside.args([common::icecore::program(), "dump", "--no-default-config"]);
    inside.args(["--tree", &target.pid().to_string(), "--images-dir"]);
    let dumped = inside.arg(&again).stdin(Stdio::null()).output();
    let dumped = dumped.map_err(|e| format!("nsenter: {e}"))?;
    assert!(dumped.status.success(), "{dumped:?}");
    let third = copy(&scratch, &again)?;
    assert_eq!(shape(third), original);
    assert_eq!(shape(copies[1]), original);
    target.alive()?;
    drop(target);
    end_adopted();
    Ok(())
}

#[test]
fn a_tree_cannot_have_new_pids_and_says_so() -> Result {
    let _alone = alone();
    let (scratch, mut target) = (Scratch::new()?, family()?);
    target.dump_running(&scratch.images(), &[])?;
    let restore = scratch.restore().args(["-d", "--pids", "new"]);
    restore.run()?.expect_failure("know each other by them")?;
    Ok(())
}

/// Every pid that is taken is named, also those of leaders that are gone.
#[test]
fn taken_ids_of_a_tree_are_all_named() -> Result {
    let _alone = alone();
    let (scratch, mut target) = (Scratch::new()?, family()?);
    target.dump_running(&scratch.images(), &[])?;
    let done = scratch
        .restore()
        .arg("-d")
        .run()?
        .expect_failure("is taken by")?;
    let mut wanted: Vec<u32> = tree::below(target.pid());
    wanted.push(target.pid());
    let sessions = wanted
        .iter()
        .filter_map(|&pid| tree::stat(pid)?[3].parse().ok());
    wanted.extend(sessions.collect::<Vec<u32>>());
    for pid in wanted {
        let named = done.stderr.contains(&format!("pid {pid}"));
        assert!(
            named,
            "{}",
            done.describe(&format!("should have named {pid}"))
        );
    }
    Ok(())
}
