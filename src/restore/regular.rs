//! Regular files and directories.

use std::os::fd::OwnedFd;

use icecore_images::regular::FileRef;
use rustix::fs::{OFlags, SeekFrom};

use super::file_ref;
use super::ghost::Ghosts;

/// Opens a file or directory at its offset.
pub(super) fn open(
    ghosts: &Ghosts,
    file: &FileRef,
    flags: OFlags,
    position: u64,
) -> std::io::Result<OwnedFd> {
    at(file_ref::open(ghosts, file, flags)?, flags, position)
}

/// The same descriptor at its offset. An O_PATH descriptor has none.
pub(super) fn at(fd: OwnedFd, flags: OFlags, position: u64) -> std::io::Result<OwnedFd> {
    if position != 0 && !flags.contains(OFlags::PATH) {
        rustix::fs::seek(&fd, SeekFrom::Start(position))?;
    }
    Ok(fd)
}
