//! Resource limits.

use serde::{Deserialize, Serialize};

/// A resource limit; `u64::MAX` is RLIM_INFINITY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Rlimit {
    pub soft: u64,
    pub hard: u64,
}
