//! AF_UNIX sockets without a name.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use icecore_images::files::FileKind;
use icecore_images::ids::DescriptionId;
use icecore_images::unix::{UnixSocketKind, UnixSocketState};
use rustix::fs::OFlags;
use rustix::net::{
    AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, socketpair, sockopt,
};

use super::RestoreContext;
use super::descriptor_plan;
use crate::error::RestoreError;
use crate::kernel::socket_option;

/// The sockets of a restore, until they are given away.
#[derive(Debug)]
pub(super) struct Sockets(BTreeMap<DescriptionId, OwnedFd>);

impl Sockets {
    /// Makes all pairs, fills their queues and shuts down what was.
    pub(super) fn create(ctx: &RestoreContext<'_>) -> Result<Self, RestoreError> {
        let mut sockets = BTreeMap::new();
        for file in &ctx.image.files {
            let FileKind::Unix(state) = &file.kind else {
                continue;
            };
            if sockets.contains_key(&file.id) {
                continue;
            }
            let other = state.peer.and_then(|id| Some((id, end(ctx, id)?)));
            let made = create(state, other.map(|(_, state)| state));
            let (own, peer) = made.map_err(|source| RestoreError::Rebuild {
                what: descriptor_plan::name(file),
                source,
            })?;
            sockets.insert(file.id, own);
            // A closed end closes here.
            if let Some((id, _)) = other {
                sockets.insert(id, peer);
            }
        }
        Ok(Self(sockets))
    }

    /// The socket of a description, with its final flags.
    pub(super) fn open(&mut self, id: DescriptionId, flags: OFlags) -> io::Result<OwnedFd> {
        let socket = self.0.remove(&id);
        let socket = socket.ok_or(io::ErrorKind::InvalidInput)?;
        rustix::fs::fcntl_setfl(&socket, flags)?;
        Ok(socket)
    }
}

fn end<'a>(ctx: &RestoreContext<'a>, id: DescriptionId) -> Option<&'a UnixSocketState> {
    match &ctx.image.files.get(id.0 as usize)?.kind {
        FileKind::Unix(state) => Some(state),
        _ => None,
    }
}

fn create(
    state: &UnixSocketState,
    other: Option<&UnixSocketState>,
) -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = match state.kind {
        UnixSocketKind::Stream => SocketType::STREAM,
        UnixSocketKind::Datagram => SocketType::DGRAM,
        UnixSocketKind::SeqPacket => SocketType::SEQPACKET,
    };
    let (own, peer) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    let ends = [(Some(state), &own, &peer), (other, &peer, &own)];
    for (state, socket, from) in ends {
        if let Some(state) = state {
            fill(state, socket, from)?;
        }
    }
    for (state, socket, _) in ends {
        if let Some(state) = state {
            set_up(state, socket)?;
        }
    }
    Ok((own, peer))
}

/// Sends its queue to a socket, from the other end.
fn fill(state: &UnixSocketState, socket: &OwnedFd, from: &OwnedFd) -> io::Result<()> {
    let needed: usize = state.queue.iter().map(|part| part.0.len()).sum();
    if needed > sockopt::socket_send_buffer_size(from)? / 2 {
        buffer(
            from,
            libc::SO_SNDBUFFORCE,
            libc::SO_SNDBUF,
            needed as u32 * 2,
        )?;
    }
    for part in &state.queue {
        let how = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = rustix::net::send(from, &part.0, how)?;
        if sent != part.0.len() {
            return Err(io::Error::other("its contents do not fit"));
        }
    }
    let owner = rustix::fs::fstat(socket)?;
    if (owner.st_uid, owner.st_gid) != (state.uid, state.gid) {
        let uid = rustix::fs::Uid::from_raw(state.uid);
        let gid = rustix::fs::Gid::from_raw(state.gid);
        rustix::fs::fchown(socket, Some(uid), Some(gid))?;
    }
    Ok(())
}

/// Buffers, time-outs, and what was shut down, which comes last: nothing could
/// be sent any more.
fn set_up(state: &UnixSocketState, socket: &OwnedFd) -> io::Result<()> {
    if sockopt::socket_send_buffer_size(socket)? != state.send_buffer as usize {
        let size = state.send_buffer;
        buffer(socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, size)?;
    }
    if sockopt::socket_recv_buffer_size(socket)? != state.receive_buffer as usize {
        let size = state.receive_buffer;
        buffer(socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, size)?;
    }
    for (which, microseconds) in [
        (sockopt::Timeout::Send, state.send_timeout_us),
        (sockopt::Timeout::Recv, state.receive_timeout_us),
    ] {
        if microseconds != 0 {
            let time = Duration::from_micros(microseconds);
            sockopt::set_socket_timeout(socket, which, Some(time))?;
        }
    }
    // Of a connection this shuts down the other end as well, as it was.
    let how = match state.shutdown {
        1 => Shutdown::Read,
        2 => Shutdown::Write,
        3 => Shutdown::Both,
        _ => return Ok(()),
    };
    Ok(rustix::net::shutdown(socket, how)?)
}

/// Sets the size of a buffer to what getsockopt shows: twice what one asks
/// for. Without CAP_NET_ADMIN up to the machine's limit.
fn buffer(socket: &OwnedFd, force: i32, option: i32, shown: u32) -> io::Result<()> {
    let asked = (shown / 2) as i32;
    match socket_option::set(socket, force, asked) {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            socket_option::set(socket, option, asked)
        }
        other => other,
    }
}
