//! AF_UNIX sockets whose other ends are inside the dump, or closed. All others
//! are refused.
//!
//! Who the other end is only sock_diag tells. Nothing is read that reading
//! would change: no pending error, and of queues see `unix_queue`.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use icecore_images::ByteString;
use icecore_images::files::FileKind;
use icecore_images::ids::DescriptionId;
use icecore_images::unix::{
    UnixCredentials, UnixPeer, UnixRecord, UnixSocketKind, UnixSocketState,
};
use rustix::event::PollFlags;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketType};

use super::DumpContext;
use super::descriptor::Descriptor;
use super::descriptors::{Collection, named};
use super::outside::{self, Holder};
use super::{connection, flight, socket, unix_name, unix_option, unix_queue};
use crate::error::DumpError;
use crate::kernel::{socket_option, unix_diag, unix_message};

/// Who else holds the tasks' sockets, by device and inode.
pub(super) type Holders = HashMap<(u64, u64), Vec<Holder>>;

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
    let queue = queue(ctx, all, d, &socket, &end);
    let queue = queue.map_err(|e| d.error("queue of the socket", e))?;
    let read = read(all, d, &socket, &end, queue);
    let problem = match read.map_err(|e| d.error("socket", e))? {
        Ok(state) => return Ok(Some(FileKind::Unix(state))),
        Err(problem) => problem,
    };
    let said = socket::describe(socket, d.pid);
    let help = "let the program read or close it";
    d.refuse(ctx, format!("{}: {problem}", said.problem), Some(help));
    Ok(None)
}

pub(super) fn holders(ctx: &DumpContext<'_>, all: &Collection) -> Holders {
    let sockets = all.descriptors.iter().filter(|d| is_socket(d));
    let names: Vec<_> = sockets.map(|d| (d.key(), named(d))).collect();
    let keys: Vec<_> = names.iter().map(|(k, n)| (*k, n.as_str())).collect();
    outside::holders(&keys, &ctx.members, &Default::default())
}

/// Whether it is a socket of any kind.
pub(super) fn is_socket(d: &Descriptor) -> bool {
    d.format() == libc::S_IFSOCK && !d.is_path_only()
}

/// SOCK_*, as far as there are AF_UNIX sockets of it.
pub(super) fn kind_of(socket: &OwnedFd) -> Option<UnixSocketKind> {
    Some(match sockopt::socket_type(socket).ok()? {
        SocketType::STREAM => UnixSocketKind::Stream,
        SocketType::DGRAM => UnixSocketKind::Datagram,
        SocketType::SEQPACKET => UnixSocketKind::SeqPacket,
        _ => return None,
    })
}

/// A socket whose other ends are inside the dump, or closed.
struct End {
    kind: UnixSocketKind,
    peer: Other,
    shutdown: u8,
}

/// What it is connected to, by index of a descriptor.
enum Other {
    None,
    Listening { backlog: u32, waiting: Vec<usize> },
    Open(usize),
    Waiting(usize),
    Closed,
}

impl End {
    /// `None`: a socket of another family, or with another end outside.
    fn of(all: &Collection, d: &Descriptor, socket: &OwnedFd) -> Option<Self> {
        if sockopt::socket_domain(socket).ok()? != AddressFamily::UNIX {
            return None;
        }
        let kind = kind_of(socket)?;
        let inode = u32::try_from(d.meta.ino()).ok()?;
        let found = unix_diag::lookup(inode).ok()?;
        let peer = Other::of(all, kind, inode, &found)?;
        let others = match &peer {
            Other::Open(at) | Other::Waiting(at) => std::slice::from_ref(at),
            Other::Listening { waiting, .. } => waiting,
            Other::None | Other::Closed => &[],
        };
        let held_outside = |at: &Descriptor| {
            let holders = all.socket_holders.as_ref();
            holders.is_some_and(|h| h.contains_key(&at.key()))
        };
        let outside =
            held_outside(d) || others.iter().any(|&at| held_outside(&all.descriptors[at]));
        (!outside).then_some(Self {
            kind,
            peer,
            shutdown: found.shutdown,
        })
    }
}

impl Other {
    fn of(
        all: &Collection,
        kind: UnixSocketKind,
        inode: u32,
        found: &unix_diag::UnixSocket,
    ) -> Option<Self> {
        if let Some(backlog) = found.backlog {
            // Closed ones are told of later.
            let open = found.waiting.iter().filter(|&&inode| inode != 0);
            let waiting = open
                .map(|&inode| all.inside(inode))
                .collect::<Option<_>>()?;
            return Some(Self::Listening { backlog, waiting });
        }
        Some(match found.peer {
            None => Self::None,
            Some(0) => match all.waits_for(inode) {
                Some(listener) => Self::Waiting(listener),
                // The embryo of a connection outside.
                None if kind != UnixSocketKind::Datagram && found.shutdown != 3 => return None,
                None => Self::Closed,
            },
            Some(peer) => Self::Open(all.inside(peer)?),
        })
    }

    fn state(&self, all: &Collection, peer_name: Option<ByteString>) -> UnixPeer {
        let id = |at: &usize| all.descriptions[*at];
        match self {
            Self::None => UnixPeer::None,
            Self::Listening { backlog, waiting } => UnixPeer::Listening {
                backlog: *backlog,
                waiting: waiting.iter().map(id).collect(),
            },
            Self::Open(at) => UnixPeer::Open(id(at)),
            Self::Waiting(at) => UnixPeer::Waiting(id(at)),
            Self::Closed => UnixPeer::Closed { name: peer_name },
        }
    }
}

impl Collection {
    /// A descriptor of the dump for the socket with this inode.
    pub(super) fn inside(&self, inode: u32) -> Option<usize> {
        let mut all = self.descriptors.iter();
        all.position(|d| is_socket(d) && d.meta.ino() == u64::from(inode))
    }

    /// A descriptor of the listener in whose backlog the socket with this inode
    /// is.
    fn waits_for(&self, inode: u32) -> Option<usize> {
        let mut all = self.descriptors.iter();
        all.position(|d| {
            let own = u32::try_from(d.meta.ino()).ok().filter(|_| is_socket(d));
            let found = own.and_then(|own| unix_diag::lookup(own).ok());
            found.is_some_and(|found| found.waiting.contains(&inode))
        })
    }
}

/// What a socket has received, or why it cannot be read.
fn queue(
    ctx: &mut DumpContext<'_>,
    all: &Collection,
    d: &Descriptor,
    socket: &OwnedFd,
    end: &End,
) -> io::Result<Result<flight::Queue, unix_queue::Problem>> {
    if let Some(queue) = all.flight.take(d.meta.ino()) {
        return Ok(Ok(queue));
    }
    if let Other::Listening { .. } = end.peer {
        return Ok(Ok(flight::Queue::default()));
    }
    let read = ctx.unix_queues.read(socket, end.kind)?;
    Ok(read.map(|read| flight::Queue {
        rights: vec![Vec::new(); read.records.len()],
        read,
    }))
}

/// The state of a socket, or why it cannot be carried.
fn read(
    all: &Collection,
    d: &Descriptor,
    socket: &OwnedFd,
    end: &End,
    queue: Result<flight::Queue, unix_queue::Problem>,
) -> io::Result<Result<UnixSocketState, String>> {
    if let Some(problem) = backlog_problem(all, d, end)? {
        return Ok(Err(problem));
    }
    let options = match unix_option::changed(socket, end.kind)? {
        Ok(options) => options,
        Err(option) => return Ok(Err(format!("{option} is set"))),
    };
    let name = match unix_name::of(socket)? {
        Ok(name) => name,
        Err(problem) => return Ok(Err(problem)),
    };
    let (queue, rights) = match queue {
        Ok(queue) => (queue.read, queue.rights),
        Err(problem) => return Ok(Err(problem.to_owned())),
    };
    let rights = rights.into_iter().map(|of_record| {
        let ids = of_record.into_iter().map(|at| all.descriptions[at]);
        ids.collect::<Vec<_>>()
    });
    let reset = unix_queue::events(socket)?.contains(PollFlags::ERR);
    if reset && end.kind == UnixSocketKind::Datagram {
        return Ok(Err("an error is pending".to_owned()));
    }
    if is_incomplete(all, end, &queue)? {
        let problem =
            "empty records that were looked at before are queued, which now cannot be seen";
        return Ok(Err(problem.to_owned()));
    }
    if let Some(problem) = queue_problem(&queue, &options) {
        return Ok(Err(problem.to_owned()));
    }
    let peer_name = match end.peer {
        Other::Closed => unix_message::peer_name(socket)?,
        _ => None,
    };
    Ok(Ok(UnixSocketState {
        inode: d.meta.ino(),
        kind: end.kind,
        name,
        peer: end.peer.state(all, peer_name.map(ByteString::from)),
        peer_credentials: peer_credentials(socket)?,
        shutdown: end.shutdown,
        reset,
        urgent: queue.urgent,
        queue: queue.records.into_iter().zip(rights).map(record).collect(),
        options,
        send_buffer: sockopt::socket_send_buffer_size(socket)? as u32,
        receive_buffer: sockopt::socket_recv_buffer_size(socket)? as u32,
        send_timeout_us: microseconds(sockopt::socket_timeout(socket, Timeout::Send)?),
        receive_timeout_us: microseconds(sockopt::socket_timeout(socket, Timeout::Recv)?),
        uid: d.meta.uid(),
        gid: d.meta.gid(),
    }))
}

/// What waits to be accepted can only be looked at by accepting it.
fn backlog_problem(all: &Collection, d: &Descriptor, end: &End) -> io::Result<Option<String>> {
    let Other::Listening { waiting, .. } = &end.peer else {
        return Ok(None);
    };
    let inode = u32::try_from(d.meta.ino()).map_err(|_| io::ErrorKind::InvalidData)?;
    let found = unix_diag::lookup(inode)?;
    if found.waiting.contains(&0) {
        return Ok(Some(
            "a connection waits to be accepted whose client has closed it already; what it has \
             sent cannot be looked at"
                .to_owned(),
        ));
    }
    for &client in waiting {
        let duplicate = all.descriptors[client].duplicate();
        let client = duplicate.map_err(io::Error::other)?;
        if socket_option::unread(&client)? != 0 {
            return Ok(Some(
                "a connection waits to be accepted on which data was sent already, which cannot \
                 be looked at"
                    .to_owned(),
            ));
        }
    }
    Ok(None)
}

/// Whether the other end has sent more than was seen: an empty record is passed
/// over once it has been looked at.
fn is_incomplete(all: &Collection, end: &End, queue: &unix_queue::Queue) -> io::Result<bool> {
    let Other::Open(peer) = end.peer else {
        return Ok(false);
    };
    let peer = &all.descriptors[peer];
    let sender = peer.duplicate().map_err(io::Error::other)?;
    // Who has a name may have sent elsewhere, or got more from others.
    let sends_here_only = end.kind == UnixSocketKind::SeqPacket
        || end.kind == UnixSocketKind::Datagram && unix_message::name(&sender)?.is_none();
    if !sends_here_only {
        return Ok(false);
    }
    let sent = u64::from(socket_option::unread(&sender)?);
    Ok(sent > unix_queue::memory(end.kind, &queue.records)?)
}

fn queue_problem(queue: &unix_queue::Queue, options: &[(i32, i32)]) -> Option<&'static str> {
    if queue.records.iter().any(|r| !r.rights.is_empty()) {
        return Some("descriptors that arrived during the dump are queued");
    }
    let stamped = options.iter().any(|(name, _)| unix_option::stamps(*name));
    (stamped && !queue.records.is_empty()).then_some("records with time stamps are queued")
}

fn record((message, rights): (unix_message::Message, Vec<DescriptionId>)) -> UnixRecord {
    let credentials = message.credentials.map(|(pid, uid, gid)| UnixCredentials {
        pid: pid as u32,
        uid,
        gid,
        groups: Vec::new(),
    });
    UnixRecord {
        bytes: message.bytes.into(),
        rights,
        credentials,
        sender: message.sender.map(ByteString::from),
    }
}

/// SO_PEERCRED and SO_PEERGROUPS.
fn peer_credentials(socket: &OwnedFd) -> io::Result<Option<UnixCredentials>> {
    let Some((pid, uid, gid)) = socket_option::peer_credentials(socket)? else {
        return Ok(None);
    };
    Ok(Some(UnixCredentials {
        pid,
        uid,
        gid,
        groups: socket_option::peer_groups(socket)?,
    }))
}

/// What the socket would be, had its other end been closed; or what cannot be
/// carried.
pub(super) fn as_if_closed(
    ctx: &mut DumpContext<'_>,
    all: &Collection,
    d: &Descriptor,
    socket: &OwnedFd,
    kind: UnixSocketKind,
) -> io::Result<Result<UnixSocketState, String>> {
    let shutdown = if kind == UnixSocketKind::Datagram {
        0
    } else {
        3
    };
    let end = End {
        kind,
        peer: Other::Closed,
        shutdown,
    };
    let queue = queue(ctx, all, d, socket, &end)?;
    read(all, d, socket, &end, queue)
}

fn microseconds(time: Option<Duration>) -> u64 {
    time.map_or(0, |t| u64::try_from(t.as_micros()).unwrap_or(u64::MAX))
}
