//! What sockets of every family have: options, filter, owner.

use std::io;
use std::os::fd::OwnedFd;

use icecore_images::socket::{SocketOption, SocketState};

use crate::kernel::socket_options::{self, Form};

/// When an option is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Before the socket is bound.
    First,
    /// Buffers' sizes, and whether the kernel may change them.
    Buffers,
    /// When nothing else is to be done with it.
    Last,
}

/// Sets one part of the options; the filter is attached before those of the
/// last part, of which one keeps it from being changed.
pub(super) fn set(socket: &OwnedFd, state: &SocketState, part: Part) -> io::Result<()> {
    if part == Part::Last && !state.filter.is_empty() {
        socket_options::set_filter(socket, &state.filter)
            .map_err(|e| named("SO_ATTACH_FILTER", e))?;
    }
    for option in state.options.iter().filter(|o| belongs(o, part)) {
        let known = socket_options::known(option.level, option.number)
            .ok_or_else(|| io::Error::other("an option that this icecore does not know"))?;
        socket_options::set_as_shown(socket, known, &option.value.0)
            .map_err(|e| named(known.name, e))?;
    }
    Ok(())
}

fn belongs(option: &SocketOption, part: Part) -> bool {
    const SO_BUF_LOCK: i32 = 72;
    let known = socket_options::known(option.level, option.number);
    let buffer = known.is_some_and(|known| matches!(known.form, Form::Buffer(_)));
    match (option.level, option.number) {
        (libc::SOL_SOCKET, SO_BUF_LOCK) => part == Part::Buffers,
        // For a while another value may be needed.
        (libc::SOL_SOCKET, libc::SO_REUSEADDR) => part != Part::Buffers,
        (libc::SOL_SOCKET, libc::SO_LOCK_FILTER) => part == Part::Last,
        _ if buffer => part == Part::Buffers,
        _ => part == Part::First,
    }
}

fn named(option: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{option}: {error}"))
}

/// The user and group that fstat showed.
pub(super) fn give_to_owner(socket: &OwnedFd, state: &SocketState) -> io::Result<()> {
    let owner = rustix::fs::fstat(socket)?;
    if (owner.st_uid, owner.st_gid) != (state.uid, state.gid) {
        let uid = rustix::fs::Uid::from_raw(state.uid);
        let gid = rustix::fs::Gid::from_raw(state.gid);
        rustix::fs::fchown(socket, Some(uid), Some(gid))?;
    }
    Ok(())
}
