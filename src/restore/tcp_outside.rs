//! TCP connections to the outside that are connected anew, or come back as if
//! their other end had closed them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use icecore_images::connection::TcpOutside;
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, accept_with, bind, connect, getsockname,
    listen, send, socket_with, sockopt,
};

use super::socket_state::{self, Part};

/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(10);

fn socket(state: &TcpOutside) -> io::Result<OwnedFd> {
    let family = match state.v6 {
        true => AddressFamily::INET6,
        false => AddressFamily::INET,
    };
    let how = SocketFlags::CLOEXEC;
    Ok(socket_with(family, SocketType::STREAM, how, None)?)
}

fn finish(state: &TcpOutside, socket: &OwnedFd) -> io::Result<()> {
    socket_state::set(socket, &state.socket, Part::Buffers)?;
    socket_state::set(socket, &state.socket, Part::Last)?;
    socket_state::give_to_owner(socket, &state.socket)
}

/// A fresh connection to the same address, with the same options.
pub(super) fn connect_anew(state: &TcpOutside) -> io::Result<OwnedFd> {
    let socket = socket(state)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
    connect(&socket, &SocketAddr::from(state.peer))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, None)?;
    socket_state::set(&socket, &state.socket, Part::First)?;
    finish(state, &socket)?;
    Ok(socket)
}

/// A connection whose other end, on this very machine, was closed when it had
/// sent what was queued.
pub(super) fn closed(state: &TcpOutside) -> io::Result<OwnedFd> {
    let (listener, own) = (socket(state)?, socket(state)?);
    let any: SocketAddr = match state.v6 {
        true => (Ipv6Addr::LOCALHOST, 0).into(),
        false => (Ipv4Addr::LOCALHOST, 0).into(),
    };
    bind(&listener, &any)?;
    listen(&listener, 1)?;
    connect(&own, &SocketAddr::try_from(getsockname(&listener)?)?)?;
    let peer = accept_with(&listener, SocketFlags::CLOEXEC)?;
    sockopt::set_socket_timeout(&peer, sockopt::Timeout::Send, Some(PATIENCE))?;
    let mut rest = state.queue.0.as_slice();
    while !rest.is_empty() {
        let sent = send(&peer, rest, SendFlags::NOSIGNAL)?;
        rest = &rest[sent..];
    }
    socket_state::set(&own, &state.socket, Part::First)?;
    finish(state, &own)?;
    Ok(own)
}
