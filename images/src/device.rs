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

/// Whether a character device, by its `st_rdev`, carries no state of its own:
/// null, zero, full, random and urandom are devices 1:3, 1:5, 1:7, 1:8, 1:9.
pub fn is_stateless(rdev: u64) -> bool {
    matches!(rdev, 0x103 | 0x105 | 0x107 | 0x108 | 0x109)
}
