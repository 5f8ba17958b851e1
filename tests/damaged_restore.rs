//! A real image, damaged and restored, two hundred times over. Where a restore
//! fails, nothing is left: no process, no file. Behind mended checksums a change
//! can make sense (another byte in a register); then a process comes to be,
//! lives or dies of it, and is ended here.
//!
//! One test only: it counts the children of its process.

#![allow(clippy::print_stdout)] // the count

#[path = "../images/tests/damage/mod.rs"]
mod damage;
#[path = "../images/tests/format/mod.rs"]
mod format;

mod common;

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::Path;

use common::icecore::Icecore;
use common::target::Target;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

type Outcome = Result<(), Box<dyn Error>>;

const IMAGES: u64 = 200;

#[test]
fn a_failed_restore_leaves_nothing() -> Outcome {
    let base = tempfile::tempdir()?;
    let sound = base.path().join("sound");
    Target::with_much_in_it(base.path())?.dump(&sound, &[])?;
    let dir = base.path().join("damaged");
    fs::create_dir(&dir)?;

    let (mut refused, mut restored) = (0, 0);
    for seed in 0..IMAGES {
        fs::remove_dir_all(&dir)?;
        fs::create_dir(&dir)?;
        for entry in fs::read_dir(&sound)? {
            let entry = entry?;
            fs::copy(entry.path(), dir.join(entry.file_name()))?;
        }
        let what = format!("seed {seed}: {}", damage::damage(&dir, seed).what);
        let before = names(base.path())?;
        let restore = Icecore::new(base.path(), "restore").arg("-D").arg(&dir);
        let done = restore.arg("-d").run()?;
        let success = done.decided(&what)?;
        if success {
            restored += 1;
        } else {
            refused += 1;
            let left = alive(&children()?)?;
            assert!(
                left.is_empty(),
                "{}",
                done.describe(&format!("({what}) left {left:?}"))
            );
        }
        end_children()?;
        let new: Vec<_> = names(base.path())?.difference(&before).cloned().collect();
        let of_the_tests = |name: &String| name.contains("/icecore-restore.");
        let of_success = |name: &String| name.ends_with("/stats-restore.json") && success;
        let known = |name: &String| of_the_tests(name) || of_success(name);
        assert!(new.iter().all(known), "{what}: {new:?}");
    }
    println!("{refused} refused, {restored} restored");
    assert!(refused > IMAGES / 2, "only {refused} refused");
    assert!(
        restored > 0,
        "none restored: nothing behind the checks was tried"
    );
    Ok(())
}

/// The children of this process, orphans it has adopted among them.
fn children() -> Result<Vec<i32>, Box<dyn Error>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        let path = entry?.path().join("children");
        let text = fs::read_to_string(path)?;
        pids.extend(
            text.split_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    Ok(pids)
}

/// Those that have not ended. (A detached task is nobody's child: when a restore
/// fails, what remains of it is for whoever adopts orphans, here this test.)
fn alive(pids: &[i32]) -> Result<Vec<i32>, Box<dyn Error>> {
    let mut alive = Vec::new();
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, fields) = stat.rsplit_once(") ").ok_or("stat")?;
        if !fields.starts_with(['Z', 'X']) {
            alive.push(*pid);
        }
    }
    Ok(alive)
}

fn end_children() -> Outcome {
    for pid in children()?.into_iter().filter_map(Pid::from_raw) {
        // One that has ended is still to be reaped.
        let _ = kill_process(pid, Signal::KILL);
        waitpid(Some(pid), WaitOptions::empty())?;
    }
    Ok(())
}

/// Names of all files in a directory and in those below it.
fn names(dir: &Path) -> std::io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            names.extend(self::names(&path)?);
        }
        names.insert(path.display().to_string());
    }
    Ok(names)
}
