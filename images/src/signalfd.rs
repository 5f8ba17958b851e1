//! signalfd(2).

use serde::{Deserialize, Serialize};

/// `fdinfo` of a signalfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalFdState {
    /// Signals it reads.
    pub mask: u64,
}
