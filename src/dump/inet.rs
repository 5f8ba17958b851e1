//! Sockets of AF_INET and AF_INET6: TCP that listens or does nothing, UDP,
//! UDP-Lite, ping and raw sockets.
//!
//! What cannot be read of them, and so is not carried: whether the port was
//! chosen by the program or for it, programs of SO_ATTACH_REUSEPORT_EBPF and
//! keys of TCP MD5; see also [`crate::kernel::socket_options`].

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use icecore_images::files::FileKind;
use icecore_images::inet::{
    Datagrams, InetAddress, InetProtocol, InetRole, InetSocketState, MulticastGroup,
};
use icecore_images::tcp::TcpConnection;
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::thread::CapabilitySet;

use super::descriptor::Descriptor;
use super::descriptors::Collection;
use super::{DumpContext, connection, inet_queue, outside, socket, socket_state, tcp};
use crate::error::DumpError;
use crate::kernel::inet_diag::{self, InetSocket};
use crate::kernel::{multicast, nft, socket_options};
use crate::options::TcpPolicy;

/// States of TCP, as the kernel numbers them.
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;

/// What stands in the way, and what would help.
struct Refused {
    problem: String,
    help: &'static str,
}

const CLOSE_IT: &str = "let the program close it";
const READ_IT: &str = "let the program read or close it";

fn refused<T>(problem: impl Into<String>, help: &'static str) -> io::Result<Result<T, Refused>> {
    let problem = problem.into();
    Ok(Err(Refused { problem, help }))
}

/// A socket of one of the two families.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    all: &Collection,
    at: usize,
    socket: &OwnedFd,
) -> Result<Option<FileKind>, DumpError> {
    let d = &all.descriptors[at];
    let error = |e| d.error("socket", e);
    let found = Found::of(d, socket).map_err(error)?;
    if found.protocol == Some(InetProtocol::Tcp)
        && !matches!(found.state(), CLOSE | LISTEN)
        && found.is_refused(ctx, all).map_err(error)?
    {
        return connection::socket(ctx, all, at);
    }
    let holders = all.socket_holders.as_ref().and_then(|h| h.get(&d.key()));
    let refused = match holders {
        Some(holders) => Refused {
            problem: format!("{} has it, too", outside::list(holders)),
            help: "let one of them close it",
        },
        None => match found.socket_state(ctx, all, at, socket).map_err(error)? {
            Ok(state) => return Ok(Some(FileKind::Inet(state))),
            Err(refused) => refused,
        },
    };
    let said = socket::describe(socket.try_clone().map_err(error)?, d.pid);
    let problem = format!("{}: {}", said.problem, refused.problem);
    d.refuse(ctx, problem, Some(refused.help));
    Ok(None)
}

/// What is known of a socket before its queues are looked at.
struct Found {
    v6: bool,
    /// `None`: one that is not carried, whose number is `number`.
    protocol: Option<InetProtocol>,
    number: u8,
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    diag: Option<InetSocket>,
}

impl Found {
    fn of(d: &Descriptor, socket: &OwnedFd) -> io::Result<Self> {
        let family = sockopt::socket_domain(socket)?;
        let number = sockopt::socket_protocol(socket)?.map_or(0, |p| p.as_raw().get());
        let number = number as u8;
        let protocol = protocol(sockopt::socket_type(socket)?, number);
        let local = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
        // A raw socket's port is its protocol.
        let raw = matches!(protocol, Some(InetProtocol::Raw(_)));
        let bound = match raw {
            true => !local.ip().is_unspecified(),
            false => local.port() != 0,
        };
        Ok(Self {
            v6: family == AddressFamily::INET6,
            protocol,
            number,
            local: bound.then_some(local),
            peer: peer(socket)?,
            diag: diag(d, family, number, protocol)?,
        })
    }

    /// Of TCP; what sock_diag does not know is not bound to anything.
    fn state(&self) -> u8 {
        self.diag.map_or(CLOSE, |diag| diag.state)
    }

    fn socket_state(
        &self,
        ctx: &mut DumpContext<'_>,
        all: &Collection,
        at: usize,
        socket: &OwnedFd,
    ) -> io::Result<Result<InetSocketState, Refused>> {
        let d = &all.descriptors[at];
        let Some(protocol) = self.protocol else {
            return refused(format!("protocol {} is not carried", self.number), CLOSE_IT);
        };
        if let Some(problem) = special(socket)? {
            return refused(problem, CLOSE_IT);
        }
        let was_connected = inet_queue::pending(socket)?.was_connected;
        let connected = self.peer.is_some() || was_connected;
        let state = match socket_state::read(d, socket, connected)? {
            Ok(state) => state,
            Err(problem) => return refused(problem, CLOSE_IT),
        };
        let role = match protocol {
            InetProtocol::Tcp => self.tcp(ctx, all, at, socket)?,
            _ => self.datagrams(ctx, d, socket, protocol)?,
        };
        Ok(role.map(|role| InetSocketState {
            socket: state,
            v6: self.v6,
            protocol,
            local: self.local.map(InetAddress::from),
            role,
        }))
    }

    /// Its two ends, if it is connected.
    fn ends(&self) -> Option<nft::Ends> {
        Some((self.local?, self.peer?))
    }

    /// Whether it is a connection that only a rule for connections to the
    /// outside could carry.
    fn is_refused(&self, ctx: &DumpContext<'_>, all: &Collection) -> io::Result<bool> {
        if ctx.options.tcp != TcpPolicy::Refuse {
            return Ok(false);
        }
        Ok(match self.ends() {
            Some(ends) => tcp::other_end(all, ends)?.is_none(),
            None => true,
        })
    }

    /// A connection; what only TCP_REPAIR tells is read later.
    fn connection(
        &self,
        ctx: &mut DumpContext<'_>,
        all: &Collection,
        at: usize,
        socket: &OwnedFd,
    ) -> io::Result<Result<InetRole, Refused>> {
        let state = tcp::State(self.state());
        let (true, Some(ends)) = (state.is_connected(), self.ends()) else {
            return refused(format!("it is in state {}", state.name()), CLOSE_IT);
        };
        if let Some(problem) = tcp::special(socket)? {
            return refused(problem, READ_IT);
        }
        let other = tcp::other_end(all, ends)?;
        if other.is_none() && ctx.options.tcp == TcpPolicy::Close {
            let queue = tcp::received(ctx.guardian()?, socket)?.into();
            return Ok(Ok(InetRole::Ended { queue }));
        }
        if !may_repair() {
            return refused("CAP_NET_ADMIN is missing", "run as root");
        }
        let (id, socket) = (all.descriptions[at], socket.try_clone()?);
        ctx.connections.push(tcp::Unread {
            id,
            socket,
            ends,
            other,
        });
        Ok(Ok(InetRole::Connection(Box::new(TcpConnection {
            shutdown: self.diag.map_or(0, |diag| diag.shutdown),
            ..tcp::unknown(ends.1)
        }))))
    }

    fn tcp(
        &self,
        ctx: &mut DumpContext<'_>,
        all: &Collection,
        at: usize,
        socket: &OwnedFd,
    ) -> io::Result<Result<InetRole, Refused>> {
        if !matches!(self.state(), CLOSE | LISTEN) {
            return self.connection(ctx, all, at, socket);
        }
        if self.state() == LISTEN {
            let (waiting, backlog) = backlog(socket)?;
            return match waiting {
                0 => Ok(Ok(InetRole::Listening { backlog })),
                n => refused(
                    format!("{n} connections have not been accepted yet"),
                    "let the program accept them",
                ),
            };
        }
        let pending = inet_queue::pending(socket)?;
        if pending.error {
            return refused("an error is pending", READ_IT);
        }
        Ok(Ok(match pending.was_connected {
            true => InetRole::Ended {
                queue: tcp::received(ctx.guardian()?, socket)?.into(),
            },
            false => InetRole::Idle,
        }))
    }

    /// Why nothing of ours would surely arrive at it.
    fn out_of_reach(&self, socket: &OwnedFd) -> io::Result<Option<&'static str>> {
        let shared = socket_options::number(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT)?;
        let device = socket_options::get(socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE)?;
        let multicast = self.local.is_some_and(|local| local.ip().is_multicast());
        Ok(
            match device.is_some_and(|name| !matches!(&name[..], b"" | b"lo\0")) {
                true => Some("it is bound to a device"),
                false if shared == Some(1) => Some("it shares its port (SO_REUSEPORT)"),
                false if multicast => Some("it is bound to a multicast address"),
                false => None,
            },
        )
    }

    fn datagrams(
        &self,
        ctx: &mut DumpContext<'_>,
        d: &Descriptor,
        socket: &OwnedFd,
        protocol: InetProtocol,
    ) -> io::Result<Result<InetRole, Refused>> {
        if inet_queue::pending(socket)?.error {
            return refused("an error is pending", READ_IT);
        }
        if socket_options::number(socket, libc::IPPROTO_UDP, 1)? == Some(1) {
            return refused("it is corked (UDP_CORK)", READ_IT);
        }
        let queue = match protocol {
            InetProtocol::Udp | InetProtocol::UdpLite => {
                match inet_queue::peek(ctx, socket, self.v6)? {
                    Ok(queue) => queue,
                    Err(problem) => return refused(problem, READ_IT),
                }
            }
            _ => {
                inet_queue::note_lost(ctx, d, socket)?;
                Vec::new()
            }
        };
        if let Some(why) = self.out_of_reach(socket)?.filter(|_| !queue.is_empty()) {
            let problem = format!("{why}, so that what is queued could not be sent to it again");
            return refused(problem, READ_IT);
        }
        let groups = match groups(socket)? {
            Ok(groups) => groups,
            Err(problem) => return refused(problem, CLOSE_IT),
        };
        Ok(Ok(InetRole::Datagrams(Datagrams {
            groups,
            peer: self.peer.map(InetAddress::from),
            shutdown: self.diag.map_or(0, |diag| diag.shutdown),
            queue,
        })))
    }
}

fn protocol(kind: SocketType, number: u8) -> Option<InetProtocol> {
    const UDPLITE: u8 = 136;
    const ICMPV6: u8 = 58;
    match (kind, number) {
        (SocketType::STREAM, 6) => Some(InetProtocol::Tcp),
        (SocketType::DGRAM, 17) => Some(InetProtocol::Udp),
        (SocketType::DGRAM, UDPLITE) => Some(InetProtocol::UdpLite),
        (SocketType::DGRAM, 1 | ICMPV6) => Some(InetProtocol::Ping),
        (SocketType::RAW, number) => Some(InetProtocol::Raw(number)),
        _ => None,
    }
}

fn may_repair() -> bool {
    let sets = rustix::thread::capabilities(None);
    sets.is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN))
}

fn peer(socket: &OwnedFd) -> io::Result<Option<SocketAddr>> {
    match rustix::net::getpeername(socket) {
        Ok(Some(peer)) => Ok(Some(SocketAddr::try_from(peer)?)),
        Ok(None) | Err(rustix::io::Errno::NOTCONN) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// What sock_diag tells; sockets that are bound to nothing it does not know.
fn diag(
    d: &Descriptor,
    family: AddressFamily,
    number: u8,
    protocol: Option<InetProtocol>,
) -> io::Result<Option<InetSocket>> {
    match protocol {
        Some(InetProtocol::Tcp | InetProtocol::Udp | InetProtocol::UdpLite) => {}
        _ => return Ok(None),
    }
    let all = inet_diag::all(family, number)?;
    Ok(all.into_iter().find(|s| u64::from(s.inode) == d.meta.ino()))
}

/// Connections that wait to be accepted, and how many may.
fn backlog(socket: &OwnedFd) -> io::Result<(u32, u32)> {
    // Of a listening socket `tcpi_unacked` and `tcpi_sacked` tell these.
    const TCP_INFO: i32 = 11;
    let info = socket_options::get(socket, libc::IPPROTO_TCP, TCP_INFO)?.unwrap_or_default();
    let word = |at: usize| {
        let bytes = info.get(at..).and_then(|b| b.first_chunk());
        bytes.map(|b| u32::from_ne_bytes(*b))
    };
    match (word(24), word(28)) {
        (Some(waiting), Some(backlog)) => Ok((waiting, backlog)),
        _ => Err(io::Error::other("TCP_INFO is too short")),
    }
}

/// Multicast groups it has joined, or why they cannot be carried.
fn groups(socket: &OwnedFd) -> io::Result<Result<Vec<MulticastGroup>, String>> {
    let mut groups = Vec::new();
    for member in multicast::memberships(socket)? {
        if member.filtered {
            let problem = format!("it lets only some senders of group {} in", member.group);
            return Ok(Err(problem));
        }
        let interface = rustix::net::netdevice::index_to_name(socket, member.interface)?;
        groups.push(MulticastGroup {
            interface: interface.into_bytes().into(),
            group: SocketAddr::new(member.group, 0).into(),
        });
    }
    Ok(Ok(groups))
}

/// What makes a socket one of a kind that is not carried.
fn special(socket: &OwnedFd) -> io::Result<Option<String>> {
    const TCP_ULP: i32 = 31;
    let ulp = socket_options::get(socket, libc::IPPROTO_TCP, TCP_ULP)?.unwrap_or_default();
    let ulp = ulp.split(|b| *b == 0).next().unwrap_or_default();
    Ok((!ulp.is_empty()).then(|| {
        let ulp = String::from_utf8_lossy(ulp);
        format!("it has an upper-layer protocol (TCP_ULP {ulp})")
    }))
}
