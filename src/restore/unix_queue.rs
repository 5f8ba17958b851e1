//! Filling the queues of AF_UNIX sockets.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use icecore_images::unix::{UnixRecord, UnixSocketState};
use rustix::net::sockopt;

use super::identity;
use super::unix::buffer;
use crate::kernel::unix_message::Outgoing;

/// Sends a socket what was in its queue, each record from the socket that
/// `sender` gives for it, with the address it is to be sent to; `right` gives
/// our number of a description.
pub(super) fn fill<'a>(
    state: &UnixSocketState,
    sender: impl Fn(&UnixRecord) -> io::Result<(&'a OwnedFd, Option<&'a [u8]>)>,
    right: impl Fn(icecore_images::ids::DescriptionId) -> Option<&'a OwnedFd>,
) -> io::Result<()> {
    let mut sent = 0;
    for record in &state.queue {
        let (from, to) = sender(record)?;
        make_room(from, state)?;
        let rights: Option<Vec<i32>> = record
            .rights
            .iter()
            .map(|&id| right(id).map(AsRawFd::as_raw_fd))
            .collect();
        let whole = Outgoing {
            rights: &rights.ok_or(io::ErrorKind::InvalidInput)?,
            credentials: record
                .credentials
                .as_ref()
                .map(|c| (c.pid as i32, c.uid, c.gid)),
            to,
            ..Outgoing::default()
        };
        let mark = state.urgent.and_then(|at| at.checked_sub(sent));
        for (bytes, flags) in parts(&record.bytes.0, mark) {
            let part = Outgoing {
                bytes,
                flags,
                ..whole
            };
            identity::send(from, &part)?;
        }
        sent += record.bytes.0.len() as u64;
    }
    Ok(())
}

/// A record whole; or before, at and after the out-of-band byte.
fn parts(bytes: &[u8], mark: Option<u64>) -> Vec<(&[u8], i32)> {
    let mark = mark.and_then(|at| usize::try_from(at).ok());
    let Some(at) = mark.filter(|&at| at < bytes.len()) else {
        return vec![(bytes, 0)];
    };
    let (before, rest) = bytes.split_at(at);
    let (urgent, after) = rest.split_at(1);
    let parts = [(before, 0), (urgent, libc::MSG_OOB), (after, 0)];
    let mut parts: Vec<_> = parts.into();
    parts.retain(|(bytes, _)| !bytes.is_empty());
    parts
}

/// Each record takes memory of its own beside its bytes.
fn make_room(from: &OwnedFd, state: &UnixSocketState) -> io::Result<()> {
    const BESIDE: usize = 2048;
    let needed: usize = state.queue.iter().map(|r| r.bytes.0.len() + BESIDE).sum();
    let needed = needed.saturating_mul(2).min(i32::MAX as usize);
    if needed <= sockopt::socket_send_buffer_size(from)? {
        return Ok(());
    }
    buffer(from, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, needed as u32)
}
