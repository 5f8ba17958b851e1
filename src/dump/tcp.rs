//! Connections of TCP: both ends in the dump, or one outside.
//!
//! What is needed of a connection only TCP_REPAIR tells, which changes the
//! socket: first all descriptors are described and all blockers known; then
//! packets are locked out, the sockets put into repair and read (`read_all`).

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use icecore_images::files::FileKind;
use icecore_images::ids::DescriptionId;
use icecore_images::inet::InetRole;
use icecore_images::tcp::{TcpAgreement, TcpConnection, TcpQueue, TcpWindow};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvFlags, recvmsg};

use super::DumpContext;
use super::descriptors::Collection;
use crate::error::DumpError;
use crate::kernel::inet_diag::{self, InetSocket};
use crate::kernel::{nft, socket_option, socket_options};
use crate::options::After;
use crate::tracer::{Guardian, Undo, fault};

const TCP: i32 = libc::IPPROTO_TCP;
const TCP_INFO: i32 = 11;
const TCP_MAXSEG: i32 = 2;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_TIMESTAMP: i32 = 24;
const TCP_REPAIR_WINDOW: i32 = 29;
const NO_QUEUE: i32 = 0;
const RECV_QUEUE: i32 = 1;
const SEND_QUEUE: i32 = 2;

/// A connection that is to be read when nothing stands in the way of the dump.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) id: DescriptionId,
    pub(super) socket: OwnedFd,
    pub(super) ends: nft::Ends,
    /// Its other end in the dump.
    pub(super) other: Option<DescriptionId>,
}

/// What the kernel calls a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State(pub(super) u8);

impl State {
    /// It is one between the end of the handshake and the last acknowledgement.
    pub(super) fn is_connected(self) -> bool {
        matches!(self.0, 1 | 4 | 5 | 8 | 9 | 11)
    }

    pub(super) fn name(self) -> &'static str {
        match self.0 {
            1 => "ESTABLISHED",
            2 => "SYN-SENT",
            3 => "SYN-RECEIVED",
            4 => "FIN-WAIT-1",
            5 => "FIN-WAIT-2",
            6 => "TIME-WAIT",
            7 => "CLOSED",
            8 => "CLOSE-WAIT",
            9 => "LAST-ACK",
            10 => "LISTEN",
            11 => "CLOSING",
            _ => "an unknown state",
        }
    }

    /// This end has said that it sends no more.
    fn is_done(self) -> bool {
        matches!(self.0, 4 | 5 | 9 | 11)
    }

    /// That is not acknowledged yet.
    fn end_is_unacknowledged(self) -> bool {
        matches!(self.0, 4 | 9 | 11)
    }

    /// The other end has said so.
    fn other_is_done(self) -> bool {
        matches!(self.0, 8 | 9 | 11)
    }
}

/// The other end of a connection, if a task of the dump has it.
pub(super) fn other_end(
    all: &Collection,
    (ours, theirs): nft::Ends,
) -> io::Result<Option<DescriptionId>> {
    let same = |a: SocketAddr, b: SocketAddr| {
        (a.ip().to_canonical(), a.port()) == (b.ip().to_canonical(), b.port())
    };
    let is_it = |s: &InetSocket| same(s.local, theirs) && same(s.peer, ours);
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        let sockets = inet_diag::all(family, TCP as u8)?;
        let found = sockets.into_iter().find(|s| is_it(s) && s.inode != 0);
        if let Some(at) = found.and_then(|s| all.inside(s.inode)) {
            return Ok(Some(all.descriptions[at]));
        }
    }
    Ok(None)
}

/// A connection of which nothing but its other end is known.
pub(super) fn unknown(peer: SocketAddr) -> TcpConnection {
    TcpConnection {
        peer: peer.into(),
        other: None,
        lock: Vec::new().into(),
        sending: TcpQueue::default(),
        receiving: TcpQueue::default(),
        shutdown: 0,
        other_is_done: false,
        agreed: TcpAgreement::default(),
        window: TcpWindow::default(),
    }
}

/// Something in the queues that cannot be carried.
pub(super) fn special(socket: &OwnedFd) -> io::Result<Option<&'static str>> {
    let mut fds = [PollFd::new(socket, PollFlags::PRI)];
    poll(&mut fds, Some(&rustix::time::Timespec::default()))?;
    let seen = fds[0].revents();
    Ok(match seen {
        _ if seen.contains(PollFlags::ERR) => Some("an error is pending"),
        _ if seen.contains(PollFlags::PRI) => Some("out-of-band data is queued"),
        _ => None,
    })
}

/// What it has received and not read, without taking it out. The target's own
/// peek offset would be moved: it is put away meanwhile.
pub(super) fn received(guardian: &mut Guardian, socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let offset = socket_options::number(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF)?;
    let Some(offset) = offset.filter(|offset| *offset >= 0) else {
        return peek(socket, rustix::io::ioctl_fionread(socket)? as usize);
    };
    let told = guardian.undo_later(&Undo::SocketOption {
        socket: socket.as_fd(),
        level: libc::SOL_SOCKET,
        name: libc::SO_PEEK_OFF,
        value: offset,
    })?;
    socket_option::set(socket, libc::SO_PEEK_OFF, -1)?;
    let seen = rustix::io::ioctl_fionread(socket)
        .map_err(io::Error::from)
        .and_then(|queued| peek(socket, queued as usize));
    fault::point(fault::Kind::Network);
    socket_option::set(socket, libc::SO_PEEK_OFF, offset)?;
    guardian.forget(told)?;
    seen
}

fn peek(socket: &OwnedFd, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    if len == 0 {
        return Ok(bytes);
    }
    let how = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let mut none = RecvAncillaryBuffer::default();
    let seen = match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut none, how) {
        Ok(seen) => seen.bytes,
        Err(Errno::AGAIN) => 0,
        Err(e) => return Err(e.into()),
    };
    bytes.truncate(seen);
    Ok(bytes)
}

/// Reads all connections that were found. Nothing may stand in the way of the
/// dump. Where the target goes on, it has its connections back afterwards.
pub(super) fn read_all(ctx: &mut DumpContext<'_>) -> Result<(), DumpError> {
    let unread = std::mem::take(&mut ctx.connections);
    if unread.is_empty() {
        return Ok(());
    }
    let pid = ctx.options.pid;
    read_locked(ctx, unread).map_err(|source| DumpError::Read {
        pid,
        what: "its TCP connections".to_owned(),
        source,
    })
}

fn read_locked(ctx: &mut DumpContext<'_>, unread: Vec<Unread>) -> io::Result<()> {
    let goes_on = ctx.options.after != After::Kill;
    let (pid, pidfd) = (ctx.options.pid, root(ctx.options.pid)?);
    ctx.guardian()?.only_while(pidfd.as_fd())?;
    let mut network = std::mem::take(&mut ctx.network);
    let guardian = ctx.guardian()?;
    let (inside, outside): (Vec<_>, Vec<_>) = unread.iter().partition(|c| c.other.is_some());
    let mut table = Vec::new();
    for (which, of, stays) in [("inside", inside, false), ("tcp", outside, true)] {
        let ends: Vec<nft::Ends> = of.iter().map(|c| c.ends).collect();
        if !ends.is_empty() {
            let name = nft::name(pid, which);
            if stays && !goes_on {
                table = name.to_bytes().to_vec();
            }
            network.lock(guardian, name, &ends, stays)?;
        }
    }
    let mut who = Vec::new();
    for connection in unread {
        who.push((connection.id, connection.ends.1, connection.other));
        network.repair(guardian, connection.socket)?;
    }
    let mut found = Vec::new();
    for socket in network.repaired() {
        found.push(read(guardian, socket)?);
    }
    match goes_on {
        true => network.let_go(guardian)?,
        false => network.rest(guardian)?,
    }
    ctx.network = network;
    for ((id, peer, other), mut connection) in who.into_iter().zip(found) {
        connection.peer = peer.into();
        connection.other = other;
        if other.is_none() {
            connection.lock = table.clone().into();
        }
        store(ctx, id, connection);
    }
    Ok(())
}

fn root(pid: u32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).ok_or(Errno::SRCH)?;
    let flags = rustix::process::PidfdFlags::empty();
    Ok(rustix::process::pidfd_open(pid, flags)?)
}

fn store(ctx: &mut DumpContext<'_>, id: DescriptionId, connection: TcpConnection) {
    let mut files = ctx.tables.files.iter_mut();
    if let Some(file) = files.find(|file| file.id == id)
        && let FileKind::Inet(socket) = &mut file.kind
        && let InetRole::Connection(role) = &mut socket.role
    {
        // What was shut down was known before.
        let shutdown = role.shutdown;
        **role = TcpConnection {
            shutdown,
            ..connection
        };
    }
}

/// Reads a connection whose socket is in repair.
fn read(guardian: &mut Guardian, socket: &OwnedFd) -> io::Result<TcpConnection> {
    let info = socket_options::get(socket, TCP, TCP_INFO)?.unwrap_or_default();
    let byte = |at: usize| info.get(at).copied().unwrap_or(0);
    let state = State(byte(0));
    if !state.is_connected() {
        let problem = format!("a connection has become {} meanwhile", state.name());
        return Err(io::Error::other(problem));
    }
    let agreed = agreement(socket, byte(5), byte(6))?;
    let connection = TcpConnection {
        sending: sending(socket, state)?,
        receiving: receiving(guardian, socket, state)?,
        other_is_done: state.other_is_done(),
        agreed,
        window: window(socket)?,
        ..unknown(SocketAddr::from(([0; 4], 0)))
    };
    choose(socket, NO_QUEUE)?;
    Ok(connection)
}

fn choose(socket: &OwnedFd, queue: i32) -> io::Result<()> {
    socket_options::set(socket, TCP, TCP_REPAIR_QUEUE, &queue.to_ne_bytes())
}

fn sequence(socket: &OwnedFd) -> io::Result<u32> {
    let sequence = socket_options::number(socket, TCP, TCP_QUEUE_SEQ)?;
    let sequence = sequence.ok_or_else(|| io::Error::other("TCP_QUEUE_SEQ is not there"))?;
    Ok(sequence as u32)
}

/// All that is not acknowledged. The kernel may still have what came right
/// before that, too.
fn sending(socket: &OwnedFd, state: State) -> io::Result<TcpQueue> {
    const SLACK: usize = 128 << 10;
    choose(socket, SEND_QUEUE)?;
    let end = u32::from(state.is_done());
    let unacknowledged = socket_option::unread(socket)?;
    let len = unacknowledged.saturating_sub(u32::from(state.end_is_unacknowledged()));
    let mut data = peek(socket, len as usize + SLACK)?;
    let before = data.len().checked_sub(len as usize);
    let before = before.ok_or_else(|| io::Error::other("a queue cannot be read whole"))?;
    data.drain(..before);
    let sequence = sequence(socket)?.wrapping_sub(end).wrapping_sub(len);
    Ok(TcpQueue {
        sequence,
        data: data.into(),
    })
}

fn receiving(guardian: &mut Guardian, socket: &OwnedFd, state: State) -> io::Result<TcpQueue> {
    choose(socket, RECV_QUEUE)?;
    let data = received(guardian, socket)?;
    let end = u32::from(state.other_is_done());
    let sequence = sequence(socket)?.wrapping_sub(end);
    Ok(TcpQueue {
        sequence: sequence.wrapping_sub(data.len() as u32),
        data: data.into(),
    })
}

fn agreement(socket: &OwnedFd, options: u8, scale: u8) -> io::Result<TcpAgreement> {
    let (timestamps, selective, scaled) = (1, 2, 4);
    let number = |option| socket_options::number(socket, TCP, option);
    let segment = number(TCP_MAXSEG)?.and_then(|s| u16::try_from(s).ok());
    let timestamp = number(TCP_TIMESTAMP)?.map(|t| t as u32);
    Ok(TcpAgreement {
        segment: segment.unwrap_or(u16::MAX),
        scale: (options & scaled != 0).then_some((scale & 0xf, scale >> 4)),
        selective: options & selective != 0,
        timestamp: timestamp.filter(|_| options & timestamps != 0),
    })
}

fn window(socket: &OwnedFd) -> io::Result<TcpWindow> {
    let mut bytes = vec![0; 20];
    socket_options::ask(socket, TCP, TCP_REPAIR_WINDOW, &mut bytes)?;
    let word = |n: usize| {
        let word = bytes.get(n * 4..).and_then(|b| b.first_chunk());
        word.map_or(0, |b| u32::from_ne_bytes(*b))
    };
    Ok(TcpWindow {
        update: word(0),
        sending: word(1),
        largest: word(2),
        receiving: word(3),
        said: word(4),
    })
}
