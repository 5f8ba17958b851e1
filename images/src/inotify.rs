//! inotify(7).

use serde::{Deserialize, Serialize};

use crate::regular::FileRef;

/// Watches of an inotify instance. Its queue is empty: events cannot be queued
/// again, and a dump that finds any is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InotifyState {
    /// Watches by descriptor.
    pub watches: Vec<InotifyWatch>,
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
