//! Locks on files: fcntl(2) and flock(2). While the task is asleep nobody
//! holds them; the task itself takes them again, none of them waiting.

use icecore_images::files::{FileKind, OpenFile};
use icecore_images::ids::FdTableId;
use icecore_images::lock::{FileLock, LockKind};
use icecore_images::regular::FileRef;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::RestoreContext;
use super::descriptors::values;
use super::file_ref;
use crate::blocker::{Obstacle, Place};
use crate::kernel::locks;
use crate::tracer::{Arg, Script};

/// Notes an obstacle for a file on which somebody else holds a lock by now
/// that one of the task's does not go with.
pub(super) fn plan(ctx: &mut RestoreContext<'_>, file: &OpenFile) {
    let (FileKind::Regular(of) | FileKind::Directory(of)) = &file.kind else {
        return;
    };
    // Nobody else can have what is made anew.
    if file.locks.is_empty() || of.ghost.is_some() {
        return;
    }
    let Some((lock, holder)) = first_in_the_way(of, &file.locks) else {
        return;
    };
    let obstacle = Obstacle {
        place: Place::Path {
            path: of.path.to_string(),
        },
        problem: format!("{holder} holds a lock that the task's does not go with: {lock}"),
        help: Some("let it give up its lock, or end it".to_owned()),
    };
    if !ctx.obstacles.contains(&obstacle) {
        ctx.obstacles.push(obstacle);
    }
}

/// The first of these locks that cannot be had, and who is in its way. A file
/// that cannot be opened to see is complained about elsewhere, or found out
/// when the lock is taken.
fn first_in_the_way(of: &FileRef, wanted: &[FileLock]) -> Option<(String, String)> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let fd = rustix::fs::openat(CWD, file_ref::path(of), flags, Mode::empty()).ok()?;
    wanted.iter().find_map(|lock| {
        let pid = match lock.kind {
            LockKind::Flock => {
                // The only way to ask is to take it, for a moment.
                let taken = flock(&fd, operation(lock));
                let _ = flock(&fd, FlockOperation::Unlock);
                (taken == Err(Errno::WOULDBLOCK)).then_some(0)?
            }
            LockKind::Posix | LockKind::Ofd => locks::in_the_way(&fd, lock).ok()??,
            // Nobody can tell before it is asked for.
            LockKind::Lease => return None,
        };
        let holder = match pid {
            1.. => Some(pid),
            _ => holder_of(&fd, lock),
        };
        let holder = holder.map_or("somebody".to_owned(), |pid| format!("process {pid}"));
        Some((shown(lock), holder))
    })
}

/// Who `/proc/locks` says has a lock in the way of this one.
fn holder_of(fd: impl std::os::fd::AsFd, wanted: &FileLock) -> Option<i32> {
    let stat = rustix::fs::fstat(fd).ok()?;
    let device = (
        rustix::fs::major(stat.st_dev),
        rustix::fs::minor(stat.st_dev),
    );
    let text = std::fs::read_to_string("/proc/locks").ok()?;
    let mut held = text.lines().filter_map(locks::parse);
    let found = held.find(|held| {
        (held.device, held.inode) == (device, stat.st_ino)
            && held.pid > 0
            && (held.lock.kind == LockKind::Flock) == (wanted.kind == LockKind::Flock)
            && (held.lock.write || wanted.write)
            && held.lock.start <= wanted.end
            && wanted.start <= held.lock.end
    });
    found.map(|held| held.pid)
}

/// Takes the locks of the description that the task has as `fd`: its own
/// table's POSIX locks, and those of the description if it `sets_up` that. In the
/// task, whose table owns POSIX locks, and after everything that closes a
/// descriptor in it: closing any of a file gives up all POSIX locks on that file.
pub(super) fn take(
    (fd, file): (u32, &OpenFile),
    table: FdTableId,
    sets_up: bool,
    script: &mut Script,
) {
    let ours = |lock: &&FileLock| match lock.kind {
        LockKind::Posix => lock.table == Some(table),
        LockKind::Ofd | LockKind::Flock | LockKind::Lease => sets_up,
    };
    for lock in file.locks.iter().filter(ours) {
        let what = format!("lock descriptor {fd}: {}", shown(lock));
        let command = match lock.kind {
            LockKind::Flock => {
                let args = values([fd.into(), operation(lock) as u64]);
                script.call(what, libc::SYS_flock as u32, args);
                continue;
            }
            LockKind::Lease => {
                let kind = match lock.write {
                    true => libc::F_WRLCK,
                    false => libc::F_RDLCK,
                };
                let args = values([fd.into(), libc::F_SETLEASE as u64, kind as u64]);
                script.call(what, libc::SYS_fcntl as u32, args);
                continue;
            }
            LockKind::Posix => libc::F_SETLK,
            LockKind::Ofd => libc::F_OFD_SETLK,
        };
        let address = script.bytes(&locks::to_bytes(lock));
        let args = [
            Arg::Value(fd.into()),
            Arg::Value(command as u64),
            address.into(),
        ];
        script.call(what, libc::SYS_fcntl as u32, args);
    }
}

fn operation(lock: &FileLock) -> FlockOperation {
    match lock.write {
        true => FlockOperation::NonBlockingLockExclusive,
        false => FlockOperation::NonBlockingLockShared,
    }
}

/// A lock in a sentence.
fn shown(lock: &FileLock) -> String {
    let how = if lock.write { "exclusive" } else { "shared" };
    let range = match (lock.start, lock.end) {
        (0, locks::END_OF_FILE) => "the whole file".to_owned(),
        (start, locks::END_OF_FILE) => format!("byte {start} to the end"),
        (start, end) => format!("bytes {start} to {end}"),
    };
    match lock.kind {
        LockKind::Flock => format!("flock, {how}"),
        LockKind::Lease => format!("a lease, {how}"),
        LockKind::Posix => format!("POSIX, {how}, {range}"),
        LockKind::Ofd => format!("of its open file description, {how}, {range}"),
    }
}
