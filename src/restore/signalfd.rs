//! signalfd(2).

use std::os::fd::OwnedFd;

use icecore_images::signalfd::SignalFdState;
use rustix::fs::OFlags;

use crate::kernel::descriptor_calls::signalfd;

/// A signalfd; whose signals it reads is decided by who reads.
pub(super) fn open(state: &SignalFdState, flags: OFlags) -> std::io::Result<OwnedFd> {
    let nonblock = flags & OFlags::NONBLOCK;
    signalfd(state.mask, (nonblock | OFlags::CLOEXEC).bits())
}
