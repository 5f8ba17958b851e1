//! Established TCP connections, as connections to the outside.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use icecore_images::connection::{ConnectionEnd, TcpOutside};
use icecore_images::files::FileKind;
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvFlags, SocketType, recvmsg, sockopt};

use super::connection::{self, Options, Said};
use super::descriptor::Descriptor;
use super::descriptors::Collection;
use super::{DumpContext, socket, socket_state};
use crate::error::DumpError;
use crate::outside::OutsideKind;

/// A connection through a duplicate of ours, or why it cannot be told.
pub(super) struct Found {
    socket: OwnedFd,
    connection: io::Result<Result<TcpOutside, String>>,
}

/// `None`: it is none.
pub(super) fn connection(d: &Descriptor, socket: &OwnedFd) -> Option<Found> {
    let family = sockopt::socket_domain(socket).ok()?;
    let v6 = family == AddressFamily::INET6;
    let stream = sockopt::socket_type(socket) == Ok(SocketType::STREAM);
    if !stream || !v6 && family != AddressFamily::INET {
        return None;
    }
    let peer = rustix::net::getpeername(socket).ok().flatten()?;
    let peer = SocketAddr::try_from(peer).ok()?;
    let local = SocketAddr::try_from(rustix::net::getsockname(socket).ok()?).ok()?;
    let read = || {
        let state = match socket_state::read(d, socket, true)? {
            Ok(state) => state,
            Err(problem) => return Ok(Err(problem)),
        };
        Ok(Ok(TcpOutside {
            v6,
            local: local.into(),
            peer: peer.into(),
            socket: state,
            queue: queue(socket)?.into(),
        }))
    };
    Some(Found {
        connection: read(),
        socket: socket.try_clone().ok()?,
    })
}

/// What it has received, looked at without taking it out.
fn queue(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; rustix::io::ioctl_fionread(socket)? as usize];
    if bytes.is_empty() {
        return Ok(bytes);
    }
    let how = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let mut none = RecvAncillaryBuffer::default();
    let seen = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut none, how)?;
    bytes.truncate(seen.bytes);
    Ok(bytes)
}

/// A connection as the rules have it.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    all: &Collection,
    at: usize,
    found: Found,
) -> Result<Option<FileKind>, DumpError> {
    let d = &all.descriptors[at];
    let error = |e| d.error("socket", e);
    let said = socket::describe(found.socket.try_clone().map_err(error)?, d.pid);
    let tcp = match found.connection.map_err(error)? {
        Ok(tcp) => tcp,
        Err(problem) => {
            let problem = format!("{}: {problem}", said.problem);
            d.refuse(ctx, problem, Some("let the program close it"));
            return Ok(None);
        }
    };
    let said = Said {
        problem: &said.problem,
        options: Options {
            reconnect: Ok(()),
            close: Ok(()),
        },
    };
    let policy = connection::decide(ctx, &d.place, OutsideKind::Tcp, d.meta.ino(), &said);
    Ok(policy.map(|policy| {
        let end = ConnectionEnd::Tcp(tcp);
        let id = all.descriptions[at];
        FileKind::Connection(connection::carry(ctx, id, policy, end, found.socket))
    }))
}
