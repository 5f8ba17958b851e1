//! Sockets of AF_INET and AF_INET6.
//!
//! Ordering requirements:
//! - what only binds comes before what listens, which lets nobody bind beside it;
//! - what was queued is sent before the socket is connected, as from then on it
//!   takes from that address only, and before its filter;
//! - SO_REUSEADDR of TCP is what it was only at the end: until then connections
//!   that have ended must not keep the port;
//! - connections come after what listens at the same port;
//! - what was shut down comes after being connected.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use icecore_images::files::FileKind;
use icecore_images::ids::DescriptionId;
use icecore_images::inet::{Datagrams, InetProtocol, InetRole, InetSocketState};
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, RawProtocol, Shutdown, SocketFlags, SocketType};

use super::socket_state::{self, Part};
use super::{RestoreContext, descriptor_plan, raw_packet, tcp};
use crate::error::RestoreError;
use crate::kernel::{multicast, socket_option, socket_options};

/// The sockets of a restore, until they are given away.
#[derive(Debug)]
pub(super) struct Sockets(BTreeMap<DescriptionId, OwnedFd>);

impl Sockets {
    /// Makes all of them.
    pub(super) fn create(ctx: &RestoreContext<'_>) -> Result<Self, RestoreError> {
        let mut sockets = BTreeMap::new();
        for now in 0..3 {
            for file in &ctx.image.files {
                let FileKind::Inet(state) = &file.kind else {
                    continue;
                };
                if turn(&state.role) == now {
                    let socket = create(state).map_err(|source| RestoreError::Rebuild {
                        what: descriptor_plan::name(file),
                        source,
                    })?;
                    sockets.insert(file.id, socket);
                }
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

/// Connections come last: in repair they can have any port.
fn turn(role: &InetRole) -> u8 {
    match role {
        InetRole::Idle | InetRole::Datagrams(_) | InetRole::Ended { .. } => 0,
        InetRole::Listening { .. } => 1,
        InetRole::Connection(_) => 2,
    }
}

fn create(state: &InetSocketState) -> io::Result<OwnedFd> {
    let socket = bound(state)?;
    match &state.role {
        InetRole::Idle => {}
        InetRole::Ended { queue } => {
            tcp::ended(state.v6, &socket, &queue.0)?;
            socket_state::set(&socket, &state.socket, Part::Buffers)?;
        }
        InetRole::Connection(connection) => {
            tcp::connect(state, connection, &socket)?;
            // The rest when it has left repair.
            socket_state::give_to_owner(&socket, &state.socket)?;
            return Ok(socket);
        }
        InetRole::Listening { backlog } => {
            let backlog = i32::try_from(*backlog).unwrap_or(i32::MAX);
            rustix::net::listen(&socket, backlog)?;
        }
        InetRole::Datagrams(datagrams) => exchange(state, datagrams, &socket)?,
    }
    socket_state::set(&socket, &state.socket, Part::Last)?;
    socket_state::give_to_owner(&socket, &state.socket)?;
    Ok(socket)
}

/// A socket with most of its options and its address.
pub(super) fn bound(state: &InetSocketState) -> io::Result<OwnedFd> {
    let family = match state.v6 {
        true => AddressFamily::INET6,
        false => AddressFamily::INET,
    };
    let (kind, number) = numbers(state);
    let protocol = RawProtocol::new(number.into()).map(rustix::net::Protocol::from_raw);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?;
    socket_state::set(&socket, &state.socket, Part::First)?;
    if state.protocol == InetProtocol::Tcp {
        socket_option::set(&socket, libc::SO_REUSEADDR, 1)?;
        // Connections inherit them.
        socket_state::set(&socket, &state.socket, Part::Buffers)?;
    }
    let connected = matches!(state.role, InetRole::Connection(_) | InetRole::Ended { .. });
    if let Some(local) = state.local.filter(|_| !connected) {
        rustix::net::bind(&socket, &SocketAddr::from(local))?;
    }
    Ok(socket)
}

fn numbers(state: &InetSocketState) -> (SocketType, u8) {
    match state.protocol {
        InetProtocol::Tcp => (SocketType::STREAM, 6),
        InetProtocol::Udp => (SocketType::DGRAM, 17),
        InetProtocol::UdpLite => (SocketType::DGRAM, 136),
        InetProtocol::Ping if state.v6 => (SocketType::DGRAM, 58),
        InetProtocol::Ping => (SocketType::DGRAM, 1),
        InetProtocol::Raw(number) => (SocketType::RAW, number),
    }
}

/// What a datagram socket had received, and its other end.
fn exchange(state: &InetSocketState, d: &Datagrams, socket: &OwnedFd) -> io::Result<()> {
    if !d.queue.is_empty() {
        fill(state, d, socket)?;
    }
    for group in &d.groups {
        let name = String::from_utf8_lossy(&group.interface.0);
        let index = rustix::net::netdevice::name_to_index(socket, &name)?;
        multicast::join(socket, index, group.group.ip())?;
    }
    if let Some(peer) = d.peer {
        rustix::net::connect(socket, &SocketAddr::from(peer))?;
    }
    let how = match d.shutdown {
        0 => None,
        1 => Some(Shutdown::Read),
        2 => Some(Shutdown::Write),
        _ => Some(Shutdown::Both),
    };
    match how.map(|how| rustix::net::shutdown(socket, how)) {
        // It says so of one that is not connected, and does it.
        None | Some(Ok(()) | Err(rustix::io::Errno::NOTCONN)) => {}
        Some(Err(e)) => return Err(e.into()),
    }
    socket_state::set(socket, &state.socket, Part::Buffers)
}

fn fill(state: &InetSocketState, d: &Datagrams, socket: &OwnedFd) -> io::Result<()> {
    // All of it was in there before, but maybe in less memory.
    let room = d.queue.iter().map(|datagram| datagram.data.0.len() + 4096);
    let room = i32::try_from(room.sum::<usize>()).unwrap_or(i32::MAX / 2);
    let forced = socket_option::set(socket, libc::SO_RCVBUFFORCE, room);
    if let Err(e) = forced
        && e.raw_os_error() != Some(libc::EPERM)
    {
        return Err(e);
    }
    let local = rustix::net::getsockname(socket)?;
    let local = SocketAddr::try_from(local)?;
    let (_, protocol) = numbers(state);
    for datagram in &d.queue {
        let to = SocketAddr::new(target(local.ip(), datagram.from.ip()), local.port());
        let before = received(socket)?;
        raw_packet::datagram(protocol, datagram.from.into(), to, &datagram.data.0)?;
        arrived(socket, before)?;
    }
    Ok(())
}

/// Where a packet from `from` reaches a socket bound to `local`.
fn target(local: IpAddr, from: IpAddr) -> IpAddr {
    match (local.to_canonical().is_unspecified(), from) {
        (false, _) => local,
        (true, IpAddr::V4(_)) => Ipv4Addr::LOCALHOST.into(),
        (true, IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// Memory that what it has received takes.
pub(super) fn received(socket: &OwnedFd) -> io::Result<i32> {
    const SO_MEMINFO: i32 = 55;
    let memory = socket_options::number(socket, libc::SOL_SOCKET, SO_MEMINFO)?;
    Ok(memory.unwrap_or(0))
}

fn arrived(socket: &OwnedFd, before: i32) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let start = Instant::now();
    while received(socket)? <= before {
        if start.elapsed() > PATIENCE {
            return Err(io::Error::other(
                "a datagram that was queued cannot be sent to it again: is there a firewall?",
            ));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}
