//! Locks on files: fcntl(2) and flock(2).

use serde::{Deserialize, Serialize};

use crate::ids::FdTableId;

/// A lock held through an open file description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileLock {
    /// What took it.
    pub kind: LockKind,
    /// Exclusive; otherwise shared.
    pub write: bool,
    /// First byte; 0 for flock(2) and leases.
    pub start: u64,
    /// Last byte; the largest offset (2⁶³ − 1): to the end of the file,
    /// wherever that is, as always for flock(2) and leases.
    pub end: u64,
    /// The descriptor table that owns a POSIX lock: any task that has the
    /// table takes it again.
    pub table: Option<FdTableId>,
}

/// What took a lock, and so who owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockKind {
    /// F_SETLK: the descriptor table of the process that took it.
    Posix,
    /// F_OFD_SETLK: the open file description.
    Ofd,
    /// flock(2): the open file description.
    Flock,
    /// F_SETLEASE: the open file description.
    Lease,
}
