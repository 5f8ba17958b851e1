//! Threads of one process, and processes of one tree, in cgroups of their own.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::common::perl::perl;
use crate::common::target::Target;
use crate::common::{tree, wait};
use crate::place::{Version, Yard, alone, enter, read, write};
use crate::{Result, scratch};

const THREADS: &str = "
import threading, time
for _ in range(2):
    threading.Thread(target=time.sleep, args=(1000,)).start()
time.sleep(1000)
";

/// A program with three threads.
fn threads() -> Result<Target> {
    let mut python = Command::new("setsid");
    python.args(["python3", "-c", THREADS]).current_dir("/");
    python
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let target = Target::spawn(&mut python)?;
    wait::until("three threads", wait::LIMIT, || {
        Ok((tids(target.pid())?.len() == 3).then_some(()))
    })?;
    Ok(target)
}

fn tids(pid: u32) -> Result<Vec<u32>> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| e.to_string())?;
    let name =
        |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    let mut all: Vec<u32> = entries.filter_map(name).collect();
    all.sort_unstable();
    Ok(all)
}

fn places(version: Version, ids: &[u32]) -> Result<BTreeMap<u32, String>> {
    ids.iter().map(|&id| Ok((id, version.of(id)?))).collect()
}

/// Dumps and restores with everything below the yard made anew.
fn again(target: &mut Target, yard: &Yard, images: &Path) -> Result {
    target.dump(images, &["--manage-cgroups=full"])?;
    crate::place::remove_all(&yard.dir);
    target.restore(images, &["--manage-cgroups=full"]).map(drop)
}

#[test]
fn threads_are_in_two_cgroups_of_v1_again() -> Result {
    let _alone = alone()?;
    let version = Version::V1("cpu");
    let yard = Yard::new(version, "threads")?;
    let (one, two) = (yard.make("one")?, yard.make("two")?);
    let scratch = scratch()?;
    let mut target = threads()?;
    let all = tids(target.pid())?;
    enter(&one, target.pid())?;
    write(&two.join("tasks"), &all[2].to_string())?;
    let before = places(version, &all)?;
    assert_eq!(before[&all[2]], "/icecore-test-threads/two");
    again(&mut target, &yard, &scratch.path().join("image"))?;
    assert_eq!(places(version, &all)?, before);
    end(target)
}

#[test]
fn threads_are_in_two_threaded_cgroups_of_v2_again() -> Result {
    let _alone = alone()?;
    let yard = Yard::new(Version::V2, "threads")?;
    let (one, two) = (yard.make("one")?, yard.make("two")?);
    let scratch = scratch()?;
    let mut target = threads()?;
    let all = tids(target.pid())?;
    enter(&yard.dir, target.pid())?;
    for (dir, tid) in [(&one, all[1]), (&two, all[2])] {
        write(&dir.join("cgroup.type"), "threaded")?;
        write(&dir.join("cgroup.threads"), &tid.to_string())?;
    }
    let before = places(Version::V2, &all)?;
    assert_eq!(before[&all[1]], "/icecore-test-threads/one");
    again(&mut target, &yard, &scratch.path().join("image"))?;
    assert_eq!(places(Version::V2, &all)?, before);
    assert_eq!(read(&one.join("cgroup.type"))?, "threaded");
    assert_eq!(read(&yard.dir.join("cgroup.type"))?, "domain threaded");
    end(target)
}

#[test]
fn a_tree_is_spread_over_five_cgroups_again() -> Result {
    let _alone = alone()?;
    let version = Version::V1("pids");
    let yard = Yard::new(version, "tree")?;
    let scratch = scratch()?;
    let mut target = perl("for (1..4) { if (fork() == 0) { sleep 1000; exit } } sleep 1000")?;
    let children = wait::until("four children", wait::LIMIT, || {
        let children = tree::children(target.pid());
        Ok((children.len() == 4).then_some(children))
    })?;
    let all: Vec<u32> = std::iter::once(target.pid())
        .chain(children.iter().copied())
        .collect();
    for (pid, name) in all.iter().zip(["a", "b", "a/c", "b/d", "e"]) {
        let dir = yard.make(name)?;
        write(&dir.join("pids.max"), &(100 + pid % 7).to_string())?;
        enter(&dir, *pid)?;
    }
    let before = places(version, &all)?;
    let images = scratch.path().join("image");
    target.dump(&images, &["--manage-cgroups"])?;
    tree::reap(&children)?;
    crate::place::remove_all(&yard.dir);
    target.restore(&images, &["--manage-cgroups"])?;
    assert_eq!(places(version, &all)?, before);
    for (pid, place) in &before {
        let dir = version.root()?.join(&place[1..]);
        assert_eq!(
            read(&dir.join("pids.max"))?,
            (100 + pid % 7).to_string(),
            "{place}"
        );
    }
    let shown = crate::common::icecore::Icecore::new(scratch.path(), "inspect").arg(&images);
    let shown = shown.succeed()?.stdout;
    let deepest = format!("/d: pid {}", all[3]);
    assert!(
        shown.contains(&deepest) && shown.contains("pids.max = 10"),
        "{shown}"
    );
    for pid in &children {
        let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
    }
    end(target)?;
    tree::reap(&children)
}

fn end(mut target: Target) -> Result {
    target.signal(Signal::KILL)?;
    target.wait().map(drop)
}
