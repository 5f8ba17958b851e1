//! inotify(7).

use std::os::fd::{AsRawFd, OwnedFd};

use icecore_images::inotify::{InotifyState, InotifyWatch};
use rustix::fs::OFlags;
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};

use super::file_ref;
use super::ghost::Ghosts;
use crate::kernel::descriptor_calls::set_next_watch;

/// An inotify instance with its watches at their numbers.
pub(super) fn open(
    state: &InotifyState,
    flags: OFlags,
    ghosts: &Ghosts,
) -> std::io::Result<OwnedFd> {
    let mut how = CreateFlags::CLOEXEC;
    how.set(CreateFlags::NONBLOCK, flags.contains(OFlags::NONBLOCK));
    let inotify = init(how)?;
    for watch in &state.watches {
        add(&inotify, watch, ghosts)?;
    }
    Ok(inotify)
}

/// Through an O_PATH descriptor, so that it works for what has no name, and
/// for a symbolic link itself.
fn add(inotify: &OwnedFd, watch: &InotifyWatch, ghosts: &Ghosts) -> std::io::Result<()> {
    let watched = file_ref::open(ghosts, &watch.file, OFlags::PATH | OFlags::NOFOLLOW)?;
    let link = format!("/proc/self/fd/{}", watched.as_raw_fd());
    set_next_watch(inotify, watch.wd)?;
    let wd = add_watch(inotify, link, WatchFlags::from_bits_retain(watch.mask))?;
    match wd == watch.wd {
        true => Ok(()),
        false => Err(std::io::Error::other(format!(
            "watch {} came back as {wd}",
            watch.wd
        ))),
    }
}

/// Drops events that the restore itself has caused. Its queue was empty when
/// it was dumped.
pub(super) fn settle(inotify: &OwnedFd) {
    let mut events = [0; 4096];
    while rustix::io::ioctl_fionread(inotify).is_ok_and(|queued| queued > 0) {
        if rustix::io::read(inotify, &mut events[..]).is_err() {
            return;
        }
    }
}
