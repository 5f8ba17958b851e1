//! What a datagram socket has received, read without taking it out.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use icecore_images::inet::{Datagram, InetAddress};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, recvmsg};

use super::DumpContext;
use super::descriptor::Descriptor;
use super::descriptors::named;
use crate::kernel::socket_option;
use crate::tracer::{Undo, fault};

/// What a socket would tell about itself before anything is read.
pub(super) struct Pending {
    /// An error, which even peeking would take away.
    pub(super) error: bool,
    /// It had another end once.
    pub(super) was_connected: bool,
}

pub(super) fn pending(socket: &OwnedFd) -> io::Result<Pending> {
    let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
    poll(&mut fds, Some(&rustix::time::Timespec::default()))?;
    let seen = fds[0].revents();
    Ok(Pending {
        error: seen.contains(PollFlags::ERR),
        was_connected: seen.contains(PollFlags::RDHUP),
    })
}

/// The queue of a UDP socket, or why it cannot be read whole.
///
/// All but the first datagram can be seen only by moving the socket's peek
/// offset, which is the target's: the guardian is told before.
pub(super) fn peek(
    ctx: &mut DumpContext<'_>,
    socket: &OwnedFd,
    v6: bool,
) -> io::Result<Result<Vec<Datagram>, &'static str>> {
    let before = socket_option::get(socket, libc::SO_PEEK_OFF)?;
    if before < 0 && matches!(look(socket), Err(Errno::AGAIN)) {
        return Ok(Ok(Vec::new()));
    }
    let guardian = ctx.guardian()?;
    let told = guardian.undo_later(&Undo::SocketOption {
        socket: socket.as_fd(),
        level: libc::SOL_SOCKET,
        name: libc::SO_PEEK_OFF,
        value: before,
    })?;
    fault::point(fault::Kind::Network);
    let seen = all(socket);
    fault::point(fault::Kind::Network);
    socket_option::set(socket, libc::SO_PEEK_OFF, before)?;
    fault::point(fault::Kind::Network);
    guardian.forget(told)?;
    let mut queue = Vec::new();
    for (from, data) in seen? {
        let from = match from {
            Some(from) if from.is_ipv6() == v6 => InetAddress::from(from),
            _ => return Ok(Err("a datagram without a sender is queued")),
        };
        let data = data.into();
        queue.push(Datagram { from, data });
    }
    Ok(Ok(queue))
}

type Seen = (Option<SocketAddr>, Vec<u8>);

fn all(socket: &OwnedFd) -> io::Result<Vec<Seen>> {
    socket_option::set(socket, libc::SO_PEEK_OFF, 0)?;
    let mut queue = Vec::new();
    loop {
        match look(socket) {
            Ok(seen) => queue.push(seen),
            Err(Errno::AGAIN) => return Ok(queue),
            Err(e) => return Err(e.into()),
        }
    }
}

fn look(socket: &OwnedFd) -> Result<Seen, Errno> {
    let mut bytes = vec![0; 1 << 16];
    let how = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let mut none = RecvAncillaryBuffer::default();
    let seen = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut none, how)?;
    bytes.truncate(seen.bytes);
    let from = seen.address.map(SocketAddr::try_from).transpose()?;
    Ok((from, bytes))
}

/// Sockets that see what others receive as well lose packets by their nature;
/// what waits in one is not carried, which is said aloud.
pub(super) fn note_lost(
    ctx: &mut DumpContext<'_>,
    d: &Descriptor,
    socket: &OwnedFd,
) -> io::Result<()> {
    if !matches!(look(socket), Err(Errno::AGAIN)) {
        let what = named(d);
        ctx.notes.push(format!(
            "{}: what {what} has received and not read is not carried",
            d.place
        ));
    }
    Ok(())
}
