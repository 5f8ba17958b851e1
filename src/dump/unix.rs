//! AF_UNIX sockets without a name, as socketpair(2) makes them: both ends
//! within the dump, or the other end closed. All others are refused.
//!
//! Who the other end is only sock_diag tells. Nothing is read that reading
//! would change: no pending error, no queue, no peek offset.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use icecore_images::files::FileKind;
use icecore_images::unix::{UnixSocketKind, UnixSocketState};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketType};

use super::DumpContext;
use super::descriptor::Descriptor;
use super::descriptors::{Collection, named};
use super::outside::{self, Holder};
use super::{connection, socket, unix_queue};
use crate::error::DumpError;
use crate::kernel::{socket_option, unix_diag};

/// Who else holds the tasks' sockets, by device and inode.
pub(super) type Holders = HashMap<(u64, u64), Vec<Holder>>;

/// Options that are carried only as every socket has them at first.
const AS_AT_FIRST: [(&str, i32); 18] = [
    ("SO_PASSCRED", libc::SO_PASSCRED),
    ("SO_PASSSEC", libc::SO_PASSSEC),
    ("SO_PASSPIDFD", 76),
    ("SO_PASSRIGHTS", 83),
    ("SO_PEEK_OFF", libc::SO_PEEK_OFF),
    ("SO_OOBINLINE", libc::SO_OOBINLINE),
    ("SO_TIMESTAMP", libc::SO_TIMESTAMP),
    ("SO_TIMESTAMPNS", libc::SO_TIMESTAMPNS),
    ("SO_TIMESTAMPING", libc::SO_TIMESTAMPING),
    ("SO_RXQ_OVFL", libc::SO_RXQ_OVFL),
    ("SO_RCVLOWAT", libc::SO_RCVLOWAT),
    ("SO_PRIORITY", libc::SO_PRIORITY),
    ("SO_MARK", libc::SO_MARK),
    ("SO_LINGER", libc::SO_LINGER),
    ("SO_BROADCAST", libc::SO_BROADCAST),
    ("SO_KEEPALIVE", libc::SO_KEEPALIVE),
    ("SO_REUSEADDR", libc::SO_REUSEADDR),
    ("SO_LOCK_FILTER", libc::SO_LOCK_FILTER),
];

/// A socket of any kind.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    all: &Collection,
    at: usize,
) -> Result<Option<FileKind>, DumpError> {
    let d = &all.descriptors[at];
    let socket = d.duplicate()?;
    let Some(end) = End::of(all, d, &socket) else {
        return connection::socket(ctx, all, at);
    };
    let error = |e| d.error("socket", e);
    let problem = match state(all, d, &socket, &end).map_err(error)? {
        Ok(state) => return Ok(Some(FileKind::Unix(state))),
        Err(problem) => problem,
    };
    let said = socket::describe(socket, d.pid);
    let help = "a later version carries it; until then let the program read or close it";
    d.refuse(ctx, format!("{}: {problem}", said.problem), Some(help));
    Ok(None)
}

pub(super) fn holders(ctx: &DumpContext<'_>, all: &Collection) -> Holders {
    let sockets = all.descriptors.iter().filter(|d| is_socket(d));
    let names: Vec<_> = sockets.map(|d| (d.key(), named(d))).collect();
    let keys: Vec<_> = names.iter().map(|(k, n)| (*k, n.as_str())).collect();
    outside::holders(&keys, &ctx.members, &Default::default())
}

fn is_socket(d: &Descriptor) -> bool {
    d.format() == libc::S_IFSOCK && !d.is_path_only()
}

/// An end of a pair whose other end is within the dump, or closed.
struct End {
    kind: UnixSocketKind,
    /// Index of a descriptor of the other end.
    peer: Option<usize>,
    shutdown: u8,
}

impl End {
    /// `None`: a socket of another kind.
    fn of(all: &Collection, d: &Descriptor, socket: &OwnedFd) -> Option<Self> {
        if sockopt::socket_domain(socket).ok()? != AddressFamily::UNIX {
            return None;
        }
        let kind = match sockopt::socket_type(socket).ok()? {
            SocketType::STREAM => UnixSocketKind::Stream,
            SocketType::DGRAM => UnixSocketKind::Datagram,
            SocketType::SEQPACKET => UnixSocketKind::SeqPacket,
            _ => return None,
        };
        let without_name = socket::address(&rustix::net::getsockname(socket).ok()?)
            == socket::NO_ADDRESS
            && match rustix::net::getpeername(socket).ok()? {
                Some(peer) => socket::address(&peer) == socket::NO_ADDRESS,
                None => true,
            };
        let inode = u32::try_from(d.meta.ino()).ok()?;
        let found = unix_diag::lookup(inode).ok()?;
        let peer = match found.peer? {
            0 => None,
            other if unix_diag::lookup(other).ok()?.peer != Some(inode) => return None,
            other => Some(all.inside(other)?),
        };
        let held_outside = |at: &Descriptor| {
            let holders = all.socket_holders.as_ref();
            holders.is_some_and(|h| h.contains_key(&at.key()))
        };
        let outside = held_outside(d) || peer.is_some_and(|at| held_outside(&all.descriptors[at]));
        (without_name && !outside).then_some(Self {
            kind,
            peer,
            shutdown: found.shutdown,
        })
    }
}

impl Collection {
    /// A descriptor for the socket with this inode.
    pub(super) fn inside(&self, inode: u32) -> Option<usize> {
        let mut all = self.descriptors.iter();
        all.position(|d| is_socket(d) && d.meta.ino() == u64::from(inode))
    }
}

/// The state of an end, or why it cannot be carried.
fn state(
    all: &Collection,
    d: &Descriptor,
    socket: &OwnedFd,
    end: &End,
) -> io::Result<Result<UnixSocketState, String>> {
    if let Some(option) = unusual_option(socket, end.kind)? {
        return Ok(Err(format!("{option} is set")));
    }
    let sender = match end.peer {
        Some(at) => Some(all.descriptors[at].duplicate().map_err(io::Error::other)?),
        None => None,
    };
    let queue = match unix_queue::peek(d, socket, end.kind, sender.as_ref())? {
        Ok(queue) => queue,
        Err(problem) => return Ok(Err(problem.to_owned())),
    };
    Ok(Ok(UnixSocketState {
        inode: d.meta.ino(),
        kind: end.kind,
        peer: end.peer.map(|at| all.descriptions[at]),
        shutdown: end.shutdown,
        queue,
        send_buffer: sockopt::socket_send_buffer_size(socket)? as u32,
        receive_buffer: sockopt::socket_recv_buffer_size(socket)? as u32,
        send_timeout_us: microseconds(sockopt::socket_timeout(socket, Timeout::Send)?),
        receive_timeout_us: microseconds(sockopt::socket_timeout(socket, Timeout::Recv)?),
        uid: d.meta.uid(),
        gid: d.meta.gid(),
    }))
}

fn microseconds(time: Option<Duration>) -> u64 {
    time.map_or(0, |t| u64::try_from(t.as_micros()).unwrap_or(u64::MAX))
}

fn unusual_option(socket: &OwnedFd, kind: UnixSocketKind) -> io::Result<Option<&'static str>> {
    if socket_option::has_filter(socket) {
        return Ok(Some("a filter (SO_ATTACH_FILTER)"));
    }
    let (fresh, _other) = unix_queue::pair(kind)?;
    // What this kernel does not know it knows of neither.
    let value =
        |socket: &OwnedFd, option| socket_option::get(socket, option).map_err(|e| e.raw_os_error());
    let differs = |option| value(socket, option) != value(&fresh, option);
    let mut options = AS_AT_FIRST.into_iter();
    Ok(options.find(|(_, o)| differs(*o)).map(|(name, _)| name))
}
