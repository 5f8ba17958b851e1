//! Character devices that carry no state.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use icecore_images::device::{DeviceState, is_stateless};
use rustix::fs::OFlags;

use super::file_ref;
use super::ghost::Ghosts;

/// Whether the node still leads to the same, harmless device.
pub(super) fn is_same(state: &DeviceState) -> bool {
    is_stateless(state.rdev)
        && std::fs::metadata(file_ref::path(&state.file)).is_ok_and(|m| m.rdev() == state.rdev)
}

/// Opens the device by its node.
pub(super) fn open(
    state: &DeviceState,
    ghosts: &Ghosts,
    flags: OFlags,
) -> std::io::Result<OwnedFd> {
    if !is_same(state) {
        return Err(std::io::Error::other("it is another device now"));
    }
    Ok(file_ref::open(ghosts, &state.file, flags)?)
}
