//! AF_UNIX sockets.
//!
//! Ordering requirements:
//! - connections are made before listeners are bound: where one was accepted,
//!   its name is bound for a moment by a listener that goes again;
//! - queues are filled when every description is open, as any may be in one;
//! - datagram sockets are filled before they are connected: connected they take
//!   nothing from others;
//! - ends that were closed are closed when queues are full;
//! - options, buffers and what was shut down come last.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use icecore_images::ByteString;
use icecore_images::files::{FdTable, FileKind, OpenFile};
use icecore_images::ids::DescriptionId;
use icecore_images::unix::{
    UnixCredentials, UnixPeer, UnixRecord, UnixSocketKind, UnixSocketState,
};
use rustix::fs::OFlags;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, accept_with, socket_with, sockopt,
};

use super::RestoreContext;
use super::descriptor_plan;
use super::identity::Identity;
use super::unix_name::{self, Made};
use super::unix_queue;
use crate::error::RestoreError;
use crate::kernel::{socket_option, unix_message};
use crate::options::PidPolicy;

/// The sockets of a restore.
#[derive(Debug)]
pub(super) struct Sockets {
    /// Until they are given away.
    made: BTreeMap<DescriptionId, OwnedFd>,
    /// Ends that were closed, by their others.
    closed: BTreeMap<DescriptionId, OwnedFd>,
    files: Made,
}

/// Notes names that are taken.
pub(super) fn plan(ctx: &mut RestoreContext<'_>) {
    plan_credentials(ctx);
    for (_, state) in sockets(ctx.image) {
        if let Some(name) = state.name.as_ref().filter(|_| keeps_its_name(state)) {
            unix_name::plan(ctx, name, state.kind);
        }
    }
}

/// Says aloud where SO_PEERCRED will not show what it showed.
fn plan_credentials(ctx: &mut RestoreContext<'_>) {
    let shown = sockets(ctx.image).filter_map(|(_, state)| state.peer_credentials.as_ref());
    let all: BTreeSet<u32> = shown.map(|c| c.pid).filter(|&pid| pid != 0).collect();
    if all.is_empty() {
        return;
    }
    if !pids(ctx) {
        let text = "SO_PEERCRED of unix sockets shows another pid than before";
        return ctx.note(text.to_owned());
    }
    for pid in all {
        if std::path::Path::new(&format!("/proc/{pid}")).exists() {
            let text = format!(
                "SO_PEERCRED of a unix socket showed pid {pid}, which another process has now"
            );
            ctx.note(text);
        }
    }
}

/// Whether it is found by its name: not where it is an end of a connection.
fn keeps_its_name(state: &UnixSocketState) -> bool {
    let connection = state.kind != UnixSocketKind::Datagram;
    let apart = matches!(state.peer, UnixPeer::None | UnixPeer::Listening { .. });
    !connection || apart
}

fn sockets(
    image: &icecore_images::Checkpoint,
) -> impl Iterator<Item = (&OpenFile, &UnixSocketState)> + use<'_> {
    image.files.iter().filter_map(|file| match &file.kind {
        FileKind::Unix(state) => Some((file, state)),
        _ => None,
    })
}

impl Sockets {
    /// Makes all sockets, binds and connects them.
    pub(super) fn create(ctx: &RestoreContext<'_>) -> Result<Self, RestoreError> {
        let mut all = Self {
            made: BTreeMap::new(),
            closed: BTreeMap::new(),
            files: Made::default(),
        };
        let steps: [Step; 3] = [Self::connect, Self::bind, Self::listen];
        for step in steps {
            for (file, state) in sockets(ctx.image) {
                step(&mut all, ctx, file, state).map_err(|source| failed(file, source))?;
            }
        }
        Ok(all)
    }

    /// Makes a socket together with its other end.
    fn connect(
        &mut self,
        ctx: &RestoreContext<'_>,
        file: &OpenFile,
        own: &UnixSocketState,
    ) -> io::Result<()> {
        if self.made.contains_key(&file.id) {
            return Ok(());
        }
        let connection = own.kind != UnixSocketKind::Datagram;
        match &own.peer {
            UnixPeer::Open(id) => {
                let peer = end(ctx, *id).ok_or(io::ErrorKind::InvalidInput)?;
                let name = peer.name.as_ref().map(|n| &n.name);
                // Who has no name is connected to by its pair only.
                let mutual = peer.peer == UnixPeer::Open(file.id);
                let pair_of_datagrams = name.is_none() || own.name.is_none() && mutual;
                if connection || pair_of_datagrams && !self.made.contains_key(id) {
                    let end = Own::of(ctx, file, own);
                    let (one, other) = pair(&end, name, peer.inode)?;
                    self.made.insert(file.id, one);
                    self.made.insert(*id, other);
                    return Ok(());
                }
            }
            UnixPeer::Closed { name } if connection || name.is_none() => {
                let end = Own::of(ctx, file, own);
                let (one, other) = pair(&end, name.as_ref(), 0)?;
                self.made.insert(file.id, one);
                self.closed.insert(file.id, other);
                return Ok(());
            }
            _ => {}
        }
        self.made.insert(file.id, socket(own.kind)?);
        Ok(())
    }

    fn bind(
        &mut self,
        _: &RestoreContext<'_>,
        file: &OpenFile,
        own: &UnixSocketState,
    ) -> io::Result<()> {
        let (Some(name), Some(socket)) = (&own.name, self.made.get(&file.id)) else {
            return Ok(());
        };
        if keeps_its_name(own) {
            unix_name::bind(socket, name, &mut self.files)?;
        } else if let UnixPeer::Waiting(_) = own.peer {
            unix_name::in_scratch(&name.name.0, || unix_message::bind(socket, &name.name.0))?;
        }
        // A datagram socket whose other end had a name and was closed.
        Ok(())
    }

    fn listen(
        &mut self,
        ctx: &RestoreContext<'_>,
        file: &OpenFile,
        own: &UnixSocketState,
    ) -> io::Result<()> {
        let UnixPeer::Listening { backlog, waiting } = &own.peer else {
            return Ok(());
        };
        let socket = self.made.get(&file.id).ok_or(io::ErrorKind::NotFound)?;
        let shown = own.peer_credentials.as_ref();
        Identity::new(shown, pids(ctx)).listen(socket, *backlog)?;
        let (address, _file) = unix_name::reach(socket)?;
        for id in waiting {
            let client = self.made.get(id).ok_or(io::ErrorKind::NotFound)?;
            // Nobody can tell who has connected: who has it, most likely.
            let who = holder(ctx, *id);
            Identity::new(who.as_ref(), pids(ctx)).connect(client, &address)?;
        }
        Ok(())
    }

    /// The socket of a description, with its final flags.
    pub(super) fn open(&mut self, id: DescriptionId, flags: OFlags) -> io::Result<OwnedFd> {
        let socket = self.made.remove(&id);
        let socket = socket.ok_or(io::ErrorKind::InvalidInput)?;
        rustix::fs::fcntl_setfl(&socket, flags)?;
        Ok(socket)
    }

    /// Fills all queues, with every description open in `fds`, and sets up what
    /// comes after that. Returns the files that were made.
    pub(super) fn finish(
        mut self,
        ctx: &RestoreContext<'_>,
        fds: &[Option<OwnedFd>],
    ) -> Result<Made, RestoreError> {
        let open = Open { ctx, fds };
        for (file, state) in sockets(ctx.image) {
            self.fill(&open, file, state)
                .map_err(|source| failed(file, source))?;
        }
        for (file, state) in sockets(ctx.image) {
            self.close(&open, file, state)
                .map_err(|source| failed(file, source))?;
        }
        for (file, state) in sockets(ctx.image) {
            let done = open.fd(file.id).and_then(|fd| set_up(state, fd));
            done.map_err(|source| failed(file, source))?;
        }
        Ok(self.files)
    }

    fn fill(&self, open: &Open<'_>, file: &OpenFile, own: &UnixSocketState) -> io::Result<()> {
        let socket = open.fd(file.id)?;
        if own.queue.is_empty() {
            return Ok(());
        }
        let partner = match &own.peer {
            UnixPeer::Open(peer) if open.mutual(*peer, file.id) => Some(open.fd(*peer)?),
            UnixPeer::Closed { .. } => self.closed.get(&file.id),
            _ => None,
        };
        if own.kind != UnixSocketKind::Datagram {
            let partner = partner.ok_or(io::ErrorKind::NotConnected)?;
            return unix_queue::fill(own, |_| Ok((partner, None)), |id| open.fd(id).ok());
        }
        let strangers = Strangers::of(open, own, partner.is_some())?;
        let address = match own.name {
            Some(_) => Some(unix_name::reach(socket)?),
            None => None,
        };
        let address = address.as_ref().map(|(address, _)| &address[..]);
        let sender = |record: &UnixRecord| match strangers.get(open, record)? {
            Some(stranger) => Ok((stranger, address)),
            None => Ok((partner.ok_or(io::ErrorKind::NotConnected)?, None)),
        };
        unix_queue::fill(own, sender, |id| open.fd(id).ok())
    }

    /// Connects a datagram socket; closes an end that was closed.
    fn close(&mut self, open: &Open<'_>, file: &OpenFile, own: &UnixSocketState) -> io::Result<()> {
        let socket = open.fd(file.id)?;
        let datagram = own.kind == UnixSocketKind::Datagram;
        match &own.peer {
            UnixPeer::Open(peer) if datagram => {
                let named = end(open.ctx, *peer).is_some_and(|peer| peer.name.is_some());
                if named {
                    let (address, _file) = unix_name::reach(open.fd(*peer)?)?;
                    unix_message::connect(socket, &address)?;
                }
            }
            UnixPeer::Closed { name: Some(name) } if datagram => {
                let gone = bound(own.kind, name)?;
                let (address, _file) = unix_name::reach(&gone)?;
                unix_message::connect(socket, &address)?;
            }
            _ => {}
        }
        if own.reset && self.closed.contains_key(&file.id) {
            // What the other end will not have read.
            unix_message::send(
                socket,
                &unix_message::Outgoing {
                    bytes: b"x",
                    ..Default::default()
                },
            )?;
        }
        self.closed.remove(&file.id);
        Ok(())
    }
}

type Step = fn(&mut Sockets, &RestoreContext<'_>, &OpenFile, &UnixSocketState) -> io::Result<()>;

fn failed(file: &OpenFile, source: io::Error) -> RestoreError {
    RestoreError::Rebuild {
        what: descriptor_plan::name(file),
        source,
    }
}

/// All descriptions, opened.
struct Open<'a> {
    ctx: &'a RestoreContext<'a>,
    fds: &'a [Option<OwnedFd>],
}

impl<'a> Open<'a> {
    fn fd(&self, id: DescriptionId) -> io::Result<&'a OwnedFd> {
        let fd = self.fds.get(id.0 as usize).and_then(Option::as_ref);
        fd.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Whether `peer` is connected to `own`.
    fn mutual(&self, peer: DescriptionId, own: DescriptionId) -> bool {
        end(self.ctx, peer).is_some_and(|s| s.peer == UnixPeer::Open(own))
    }

    /// A datagram socket of the dump with this name.
    fn named(&self, name: &ByteString) -> io::Result<Option<&'a OwnedFd>> {
        let mut all = sockets(self.ctx.image);
        let found = all.find(|(_, s)| {
            let own = s.name.as_ref().map(|n| &n.name);
            s.kind == UnixSocketKind::Datagram && own == Some(name)
        });
        found.map(|(file, _)| self.fd(file.id)).transpose()
    }
}

/// Sockets that sent datagrams and have gone, by name.
struct Strangers(BTreeMap<Option<ByteString>, OwnedFd>);

impl Strangers {
    fn of(open: &Open<'_>, own: &UnixSocketState, partner: bool) -> io::Result<Self> {
        let mut gone = BTreeMap::new();
        for record in &own.queue {
            let stays = match &record.sender {
                Some(name) => open.named(name)?.is_some(),
                None => partner || own.name.is_none(),
            };
            if stays || gone.contains_key(&record.sender) {
                continue;
            }
            let socket = match &record.sender {
                Some(name) => bound(UnixSocketKind::Datagram, name)?,
                None => socket(UnixSocketKind::Datagram)?,
            };
            gone.insert(record.sender.clone(), socket);
        }
        Ok(Self(gone))
    }

    /// Who sends this; `None`: the other end of the pair.
    fn get<'a>(&'a self, open: &Open<'a>, record: &UnixRecord) -> io::Result<Option<&'a OwnedFd>> {
        let alive = match &record.sender {
            Some(name) => open.named(name)?,
            None => None,
        };
        Ok(alive.or_else(|| self.0.get(&record.sender)))
    }
}

fn end<'a>(ctx: &RestoreContext<'a>, id: DescriptionId) -> Option<&'a UnixSocketState> {
    match &ctx.image.files.get(id.0 as usize)?.kind {
        FileKind::Unix(state) => Some(state),
        _ => None,
    }
}

/// A connection to the socket of this name, with the options of `state`.
pub(super) fn connect_anew(
    state: &UnixSocketState,
    name: &ByteString,
    made: &mut Made,
) -> io::Result<OwnedFd> {
    let socket = socket(state.kind)?;
    if let Some(own) = state.name.as_ref().filter(|_| keeps_its_name(state)) {
        unix_name::bind(&socket, own, made)?;
    }
    // A listener that is full is not waited for without end.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
    unix_message::connect(&socket, &name.0)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, None)?;
    let open = UnixSocketState {
        shutdown: 0,
        ..state.clone()
    };
    set_up(&open, &socket)?;
    Ok(socket)
}

/// How long a server may take to have room for a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the tasks have their old pids, which are those of our namespace.
fn pids(ctx: &RestoreContext<'_>) -> bool {
    ctx.options.pids == PidPolicy::Same
}

/// The first task that has a description.
fn holder(ctx: &RestoreContext<'_>, id: DescriptionId) -> Option<UnixCredentials> {
    let has = |table: &&FdTable| table.entries.iter().any(|e| e.description == id);
    let table = ctx.image.fd_tables.iter().find(has)?;
    let task = ctx.image.tasks.iter().find(|t| t.fd_table == table.id)?;
    let creds = &task.threads.first()?.creds;
    Some(UnixCredentials {
        pid: task.pid,
        uid: creds.uids[1],
        gid: creds.gids[1],
        groups: creds.groups.clone(),
    })
}

fn socket_type(kind: UnixSocketKind) -> SocketType {
    match kind {
        UnixSocketKind::Stream => SocketType::STREAM,
        UnixSocketKind::Datagram => SocketType::DGRAM,
        UnixSocketKind::SeqPacket => SocketType::SEQPACKET,
    }
}

/// A new socket.
pub(super) fn socket(kind: UnixSocketKind) -> io::Result<OwnedFd> {
    let kind = socket_type(kind);
    Ok(socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// A socket that is bound to a name without a file.
fn bound(kind: UnixSocketKind, name: &ByteString) -> io::Result<OwnedFd> {
    let socket = socket(kind)?;
    unix_name::in_scratch(&name.0, || unix_message::bind(&socket, &name.0))?;
    Ok(socket)
}

/// One end of a pair that is to be made.
struct Own<'a> {
    image: &'a icecore_images::Checkpoint,
    id: DescriptionId,
    state: &'a UnixSocketState,
    /// SO_PEERCRED of the other end.
    peer_shows: Option<&'a UnixCredentials>,
    /// Pids mean what they meant.
    pids: bool,
}

impl<'a> Own<'a> {
    fn of(ctx: &RestoreContext<'a>, file: &'a OpenFile, state: &'a UnixSocketState) -> Self {
        let peer = match state.peer {
            UnixPeer::Open(peer) => end(ctx, peer),
            _ => None,
        };
        Self {
            image: ctx.image,
            id: file.id,
            state,
            peer_shows: peer.and_then(|peer| peer.peer_credentials.as_ref()),
            pids: pids(ctx),
        }
    }

    /// Whether it was this end that was accepted, and not the other, which has
    /// a name, too. Who was accepted has the name of its listener and of all
    /// others that it accepted, and was made after the client.
    fn was_accepted(&self, own: &ByteString, peer: &ByteString, peer_inode: u64) -> bool {
        let others = |name: &ByteString| {
            sockets(self.image).any(|(file, state)| {
                let named = state.name.as_ref().is_some_and(|n| n.name == *name);
                named && file.id != self.id && state.inode != peer_inode
            })
        };
        match (others(own), others(peer)) {
            (true, false) => true,
            (false, true) => false,
            _ => self.state.inode > peer_inode,
        }
    }
}

/// A connected pair: `own`, and one whose name and inode number are given.
/// Where one of a connection has a name, it was accepted by a listener of that
/// name.
fn pair(
    own: &Own<'_>,
    peer: Option<&ByteString>,
    peer_inode: u64,
) -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = own.state.kind;
    let name = own.state.name.as_ref().map(|n| &n.name);
    // What an end shows is who made the other.
    let theirs = Identity::new(own.state.peer_credentials.as_ref(), own.pids);
    let own_side = Identity::new(own.peer_shows, own.pids);
    let (accepted, client) = match (name, peer) {
        _ if kind == UnixSocketKind::Datagram => return theirs.pair(socket_type(kind)),
        (None, None) => return theirs.pair(socket_type(kind)),
        (Some(name), peer) if peer.is_none_or(|p| own.was_accepted(name, p, peer_inode)) => {
            return connection(kind, (name, own_side), (peer, theirs));
        }
        (own, Some(peer)) => connection(kind, (peer, theirs), (own, own_side))?,
        (Some(_), None) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    Ok((client, accepted))
}

/// A connection made by way of a listener, which goes again: the accepted end
/// and the client.
fn connection(
    kind: UnixSocketKind,
    (accepted, server): (&ByteString, Identity<'_>),
    (client_name, who): (Option<&ByteString>, Identity<'_>),
) -> io::Result<(OwnedFd, OwnedFd)> {
    let client = match client_name {
        Some(name) => bound(kind, name)?,
        None => socket(kind)?,
    };
    let listener = socket(kind)?;
    let accepted = unix_name::in_scratch(&accepted.0, || {
        unix_message::bind(&listener, &accepted.0)?;
        server.listen(&listener, 1)?;
        who.connect(&client, &accepted.0)?;
        Ok(accept_with(&listener, SocketFlags::CLOEXEC)?)
    })?;
    Ok((accepted, client))
}

/// Options, buffers, time-outs, owner, and what was shut down, which comes last.
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
    for (name, value) in &state.options {
        socket_option::set(socket, *name, *value)?;
    }
    let owner = rustix::fs::fstat(socket)?;
    if (owner.st_uid, owner.st_gid) != (state.uid, state.gid) {
        let uid = rustix::fs::Uid::from_raw(state.uid);
        let gid = rustix::fs::Gid::from_raw(state.gid);
        rustix::fs::fchown(socket, Some(uid), Some(gid))?;
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
pub(super) fn buffer(socket: &OwnedFd, force: i32, option: i32, shown: u32) -> io::Result<()> {
    let asked = (shown / 2) as i32;
    match socket_option::set(socket, force, asked) {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            socket_option::set(socket, option, asked)
        }
        other => other,
    }
}
