//! Character devices that carry no state.

use serde::{Deserialize, Serialize};

use crate::regular::FileRef;

/// null, zero, full, random, urandom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    /// Device number (`st_rdev`).
    pub rdev: u64,
    /// The node it was opened by.
    pub file: FileRef,
}
