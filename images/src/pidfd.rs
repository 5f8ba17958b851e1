//! pidfd_open(2).

use serde::{Deserialize, Serialize};

/// A pidfd of a task (or thread) in the dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidFdState {
    /// The pid.
    pub pid: u32,
    /// PIDFD_THREAD.
    pub thread: bool,
}
