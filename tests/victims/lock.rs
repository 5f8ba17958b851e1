//! Locks on files: flock(2), POSIX locks and those of open file descriptions.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc;

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::common::outside::Outside;
use crate::harness::{Stage, Victim};
use crate::regular::{open_at, text};
use crate::sys::{call, same, to};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        // A file without a name gets another one in /proc (ghost.rs).
        Victim::new("lock", held).check(shown).allow("fd/*/link"),
        Victim::new("lock-waiting", waiting),
        Victim::new("lock-lease", leases),
        Victim::refused("lock-lease-nameless", " has a lease: ", lease),
    ]
}

const WRITE: i16 = libc::F_WRLCK as i16;
const READ: i16 = libc::F_RDLCK as i16;
const NONE: i16 = libc::F_UNLCK as i16;

/// fcntl(2) with a `struct flock`; its type afterwards.
fn lock(fd: &OwnedFd, command: i32, kind: i16, (start, length): (i64, i64)) -> Result<i16, String> {
    let mut words = [i64::from(kind), start, length, 0];
    let number = fd.as_raw_fd() as u64;
    let args = [number, command as u64, to(&mut words)];
    call("fcntl lock", libc::SYS_fcntl, &args)?;
    Ok(words[0] as i16)
}

/// All kinds, shared and exclusive, with and without an end, on one file
/// through two descriptions; some beside a file that is gone and a directory.
fn held(stage: &mut Stage) -> Result<(), String> {
    let dir = stage.dir().to_owned();
    let path = dir.join("locked");
    std::fs::write(&path, "contents").map_err(text("write"))?;
    let one = open_at(&path, OFlags::RDWR)?;
    let other = open_at(&path, OFlags::RDWR)?;
    let _twin = rustix::io::dup(&one).map_err(text("dup"))?;
    lock(&one, libc::F_SETLK, WRITE, (10, 5))?;
    lock(&one, libc::F_SETLK, READ, (20, 1))?;
    lock(&other, libc::F_SETLK, WRITE, (1000, 0))?;
    lock(&other, libc::F_OFD_SETLK, READ, (100, 10))?;
    flock(&one, FlockOperation::LockShared).map_err(text("flock"))?;
    flock(&other, FlockOperation::LockShared).map_err(text("flock"))?;

    let gone = open_at(&dir.join("gone"), OFlags::CREATE | OFlags::RDWR)?;
    std::fs::remove_file(dir.join("gone")).map_err(text("unlink"))?;
    lock(&gone, libc::F_SETLK, WRITE, (0, 0))?;
    let sub = dir.join("sub");
    std::fs::create_dir(&sub).map_err(text("mkdir"))?;
    let sub = open_at(&sub, OFlags::RDONLY | OFlags::DIRECTORY)?;
    flock(&sub, FlockOperation::LockExclusive).map_err(text("flock"))?;
    while stage.next()? {
        conflicts(&one)?;
        // Locks still belong to whom they did: POSIX ones to the process, so
        // it may take them again through any description; flock's to theirs.
        lock(&other, libc::F_SETLK, WRITE, (10, 5))?;
        lock(&one, libc::F_SETLK, WRITE, (10, 5))?;
        let upgrade = flock(&one, FlockOperation::NonBlockingLockExclusive);
        same("upgrade", &upgrade, &Err(rustix::io::Errno::WOULDBLOCK))?;
        flock(&one, FlockOperation::NonBlockingLockShared).map_err(text("flock"))?;
    }
    Ok(())
}

/// What a description sees that is nobody's yet. It is asked through one that
/// stays open: closing one would give up the POSIX locks.
fn conflicts(one: &OwnedFd) -> Result<(), String> {
    let seen = |range| lock(one, libc::F_OFD_GETLK, WRITE, range);
    for (range, kind) in [
        ((0, 10), NONE),
        ((14, 1), WRITE),
        ((15, 5), NONE),
        ((20, 1), READ),
        ((21, 79), NONE),
        ((109, 1), READ),
        ((110, 890), NONE),
        ((1 << 40, 1), WRITE),
    ] {
        same(&format!("lock of {range:?}"), &seen(range)?, &kind)?;
    }
    Ok(())
}

/// From outside: `/proc/locks` has them all, under the task's pid.
fn shown(outside: &Outside) -> Result<(), String> {
    let pid = outside.get("status/Pid").ok_or("no pid")?.to_owned();
    let all = std::fs::read_to_string("/proc/locks").map_err(text("/proc/locks"))?;
    let mut mine: Vec<String> = all
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.len() == 8 && words[4] == pid)
        .map(|words| [words[1], words[3], words[6], words[7]].join(" "))
        .collect();
    mine.sort_unstable();
    let expected = [
        "FLOCK READ 0 EOF",
        "FLOCK READ 0 EOF",
        "FLOCK WRITE 0 EOF",
        "POSIX READ 20 20",
        "POSIX WRITE 0 EOF",
        "POSIX WRITE 10 14",
        "POSIX WRITE 1000 EOF",
    ];
    same("locks", &mine, &expected.map(str::to_owned).to_vec())?;
    let mut facts = outside.matching("fd/*/lock#*");
    match facts.any(|(_, lock)| lock.ends_with("OFDLCK ADVISORY READ -1 100 109")) {
        true => Ok(()),
        false => Err("no lock of an open file description".to_owned()),
    }
}

/// A thread waits for a lock, through it all, until it is given up.
fn waiting(stage: &mut Stage) -> Result<(), String> {
    let path = stage.dir().join("awaited");
    let holder = open_at(&path, OFlags::CREATE | OFlags::RDWR)?;
    let waiter = open_at(&path, OFlags::RDWR)?;
    lock(&holder, libc::F_OFD_SETLK, WRITE, (0, 7))?;
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let taken = lock(&waiter, libc::F_OFD_SETLKW, WRITE, (3, 0));
        drop(tell.send(taken.map(drop)));
    });
    while stage.next()? {
        match told.try_recv() {
            Err(mpsc::TryRecvError::Empty) => {}
            other => return Err(format!("does not wait any more: {other:?}")),
        }
    }
    lock(&holder, libc::F_OFD_SETLK, NONE, (0, 7))?;
    told.recv().map_err(text("thread"))??;
    thread.join().map_err(|_| "the thread panicked".to_owned())
}

/// Leases, exclusive and shared, on files with names.
fn leases(stage: &mut Stage) -> Result<(), String> {
    let set = libc::F_SETLEASE as u64;
    let mut held = Vec::new();
    for (name, flags, kind) in [
        ("exclusive", OFlags::RDWR, libc::F_WRLCK),
        ("shared", OFlags::RDONLY, libc::F_RDLCK),
    ] {
        let path = stage.dir().join(name);
        std::fs::write(&path, "contents").map_err(text("write"))?;
        let file = open_at(&path, flags)?;
        call(
            "F_SETLEASE",
            libc::SYS_fcntl,
            &[file.as_raw_fd() as u64, set, kind as u64],
        )?;
        held.push((file, kind as u64));
    }
    while stage.next()? {
        for (file, kind) in &held {
            let get = [file.as_raw_fd() as u64, libc::F_GETLEASE as u64];
            same("lease", &call("F_GETLEASE", libc::SYS_fcntl, &get)?, kind)?;
        }
    }
    Ok(())
}

/// An exclusive lease on a file without a name, whose contents would have to be
/// read: nobody may open it, or the lease would be broken.
fn lease(stage: &mut Stage) -> Result<(), String> {
    let path = stage.dir().join("leased");
    let file = open_at(&path, OFlags::CREATE | OFlags::RDWR)?;
    rustix::io::write(&file, b"contents").map_err(text("write"))?;
    std::fs::remove_file(&path).map_err(text("unlink"))?;
    let number = file.as_raw_fd() as u64;
    let exclusive = libc::F_WRLCK as u64;
    let set = [number, libc::F_SETLEASE as u64, exclusive];
    call("F_SETLEASE", libc::SYS_fcntl, &set)?;
    while stage.next()? {
        let get = [number, libc::F_GETLEASE as u64];
        same(
            "lease",
            &call("F_GETLEASE", libc::SYS_fcntl, &get)?,
            &exclusive,
        )?;
    }
    Ok(())
}
