//! Locks on files.

use super::MAX_OFFSET;
use super::numbers::within;
use super::problem::{Found, Problem};
use crate::files::{FileKind, OpenFile};
use crate::lock::{FileLock, LockKind};

/// O_PATH.
const PATH_ONLY: u32 = 0o10_000_000;

pub(super) fn locks(file: &OpenFile) -> Found {
    let nothing_to_lock = file.flags & PATH_ONLY != 0 || matches!(file.kind, FileKind::PathOnly(_));
    if nothing_to_lock && !file.locks.is_empty() {
        let problem = "a file opened with O_PATH is locked";
        return Err(Problem::Contradiction(problem));
    }
    file.locks.iter().try_for_each(lock)
}

fn lock(lock: &FileLock) -> Found {
    within("last byte of a lock", lock.end, 0..=MAX_OFFSET)?;
    within("first byte of a lock", lock.start, 0..=lock.end)?;
    let whole = (lock.start, lock.end) == (0, MAX_OFFSET);
    match lock.kind == LockKind::Flock && !whole {
        true => Err(Problem::Contradiction("flock locks a part of a file")),
        false => Ok(()),
    }
}
