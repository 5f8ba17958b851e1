//! Seccomp filters.

use serde::{Deserialize, Serialize};

use crate::ids::SeccompFilterId;

/// Seccomp mode of a thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompState {
    /// None.
    Off,
    /// SECCOMP_MODE_STRICT.
    Strict,
    /// SECCOMP_MODE_FILTER, in the order of installation.
    Filter(Vec<SeccompFilterId>),
}

/// A filter program; threads that share one refer to it by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompFilter {
    /// Its name in this image.
    pub id: SeccompFilterId,
    /// SECCOMP_FILTER_FLAG_* it was installed with, as far as the kernel tells.
    pub flags: u64,
    /// `struct sock_filter` records: code, jt, jf, k.
    pub program: Vec<(u16, u8, u8, u32)>,
}
