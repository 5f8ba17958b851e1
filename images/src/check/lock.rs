//! Locks on files.

use super::MAX_OFFSET;
use super::numbers::{refers, within};
use super::problem::{Found, Problem};
use crate::checkpoint::Checkpoint;
use crate::files::{FileKind, OpenFile};
use crate::lock::{FileLock, LockKind};

/// O_PATH.
const PATH_ONLY: u32 = 0o10_000_000;

pub(super) fn locks(image: &Checkpoint, file: &OpenFile) -> Found {
    let nothing_to_lock = file.flags & PATH_ONLY != 0 || matches!(file.kind, FileKind::PathOnly(_));
    if nothing_to_lock && !file.locks.is_empty() {
        let problem = "a file opened with O_PATH is locked";
        return Err(Problem::Contradiction(problem));
    }
    let tables = image.fd_tables.len();
    file.locks.iter().try_for_each(|one| lock(one, tables))
}

fn lock(lock: &FileLock, tables: usize) -> Found {
    match (lock.kind, lock.table) {
        (LockKind::Posix, Some(table)) => refers("owner of a lock", table.0, tables)?,
        (LockKind::Posix, None) => {
            return Err(Problem::Contradiction("a POSIX lock has no owner"));
        }
        (_, Some(_)) => {
            return Err(Problem::Contradiction(
                "a lock of a description has a table as its owner",
            ));
        }
        (_, None) => {}
    }
    within("last byte of a lock", lock.end, 0..=MAX_OFFSET)?;
    within("first byte of a lock", lock.start, 0..=lock.end)?;
    let whole = (lock.start, lock.end) == (0, MAX_OFFSET);
    match lock.kind {
        LockKind::Flock if !whole => Err(Problem::Contradiction("flock locks a part of a file")),
        LockKind::Lease if !whole => Err(Problem::Contradiction("a lease is of a part of a file")),
        _ => Ok(()),
    }
}
