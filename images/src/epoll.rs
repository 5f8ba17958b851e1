//! epoll(7).

use serde::{Deserialize, Serialize};

use crate::ids::DescriptionId;

/// Registrations of an epoll instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpollState {
    /// In the order `fdinfo` lists them.
    pub targets: Vec<EpollTarget>,
}

/// A registration. Its key in the kernel is descriptor number and open file
/// description together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpollTarget {
    /// The number it was registered under.
    pub fd: u32,
    /// The description it watches (which that number may no longer refer to).
    pub description: DescriptionId,
    /// EPOLL* events; 0 in the low bits: a disarmed EPOLLONESHOT.
    pub events: u32,
    /// User data.
    pub data: u64,
}
