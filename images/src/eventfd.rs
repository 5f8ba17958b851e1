//! eventfd(2).

use serde::{Deserialize, Serialize};

/// `fdinfo` of an eventfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFdState {
    /// Counter.
    pub count: u64,
    /// EFD_SEMAPHORE.
    pub semaphore: bool,
}
