//! Files of `/proc` and `/sys` that a task has open about itself.

use serde::{Deserialize, Serialize};

use crate::bytes::ByteString;

/// A file of `/proc` or `/sys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcFileState {
    /// Absolute path; a leading `/proc/PID` of the task itself is written as
    /// it stands and rewritten where the pid changes.
    pub path: ByteString,
    /// A directory.
    pub directory: bool,
}
