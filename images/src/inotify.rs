//! inotify(7).

use serde::{Deserialize, Serialize};

use crate::bytes::ByteString;
use crate::regular::FileRef;

/// Watches and queued events of an inotify instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InotifyState {
    /// Watches by descriptor.
    pub watches: Vec<InotifyWatch>,
    /// Bytes of events not yet read; they cannot be queued again and a dump
    /// that finds any says so.
    pub queued: ByteString,
}

/// A watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InotifyWatch {
    /// Watch descriptor.
    pub wd: i32,
    /// IN_* mask.
    pub mask: u32,
    /// What is watched, by path.
    pub file: FileRef,
}
