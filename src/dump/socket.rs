//! Sockets: which room carries one. Those that none does are named with all that
//! identifies the other end.

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketType, sockopt};

use icecore_images::files::FileKind;

use super::descriptors::Collection;
use super::{DumpContext, inet, outside, unix};
use crate::error::DumpError;

/// The name of a socket without one.
pub(super) const NO_ADDRESS: &str = "no address";

/// What to say about a socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) problem: String,
    pub(super) help: String,
}

/// A socket of any family.
pub(super) fn carry(
    ctx: &mut DumpContext<'_>,
    all: &mut Collection,
    at: usize,
) -> Result<Option<FileKind>, DumpError> {
    // Before there are duplicates of ours.
    if all.socket_holders.is_none() {
        all.socket_holders = Some(unix::holders(ctx, all));
    }
    let socket = all.descriptors[at].duplicate()?;
    match sockopt::socket_domain(&socket) {
        Ok(AddressFamily::INET | AddressFamily::INET6) => inet::describe(ctx, all, at, &socket),
        _ => unix::describe(ctx, all, at),
    }
}

/// Describes a socket through a duplicate of ours, of a task `pid`.
pub(super) fn describe(socket: OwnedFd, pid: u32) -> Said {
    let domain = sockopt::socket_domain(&socket).unwrap_or(AddressFamily::UNSPEC);
    let family = match domain {
        AddressFamily::UNIX => "unix",
        AddressFamily::INET => "IPv4",
        AddressFamily::INET6 => "IPv6",
        AddressFamily::NETLINK => "netlink",
        AddressFamily::PACKET => "packet",
        other => named_family(other),
    };
    let kind = match sockopt::socket_type(&socket) {
        Ok(SocketType::STREAM) => "stream",
        Ok(SocketType::DGRAM) => "datagram",
        Ok(SocketType::SEQPACKET) => "seqpacket",
        Ok(SocketType::RAW) => "raw",
        _ => "unknown",
    };
    let queued = rustix::io::ioctl_fionread(&socket).unwrap_or(0);
    let option = match (domain, kind) {
        (AddressFamily::UNIX, _) => Some("unix"),
        (AddressFamily::INET | AddressFamily::INET6, "stream") => Some("tcp"),
        _ => None,
    };
    let state = state(&socket, domain, pid);
    Said {
        problem: format!("{family} {kind} socket, {state}, {queued} bytes queued"),
        help: match option {
            Some(kind) => {
                format!("--outside {kind}=keep|reconnect|close|auto (not supported yet)")
            }
            None => "let the program close it".to_owned(),
        },
    }
}

fn named_family(family: AddressFamily) -> &'static str {
    match i32::from(family.as_raw()) {
        libc::AF_VSOCK => "vsock",
        libc::AF_BLUETOOTH => "bluetooth",
        libc::AF_CAN => "CAN",
        libc::AF_ALG => "alg (kernel crypto)",
        libc::AF_XDP => "XDP",
        libc::AF_TIPC => "TIPC",
        libc::AF_KEY => "key management",
        libc::AF_PPPOX => "PPP",
        libc::AF_RDS => "RDS",
        libc::AF_NFC => "NFC",
        _ => "other",
    }
}

fn state(socket: &OwnedFd, domain: AddressFamily, pid: u32) -> String {
    let own = rustix::net::getsockname(socket).ok();
    let own = own.as_ref().map(address).unwrap_or_default();
    if sockopt::socket_acceptconn(socket).unwrap_or(false) {
        return format!("listening at {own}");
    }
    let Some(peer) = rustix::net::getpeername(socket).ok().flatten() else {
        return match own.as_str() {
            "" | NO_ADDRESS => "not connected".to_owned(),
            own => format!("bound to {own}"),
        };
    };
    let peer = address(&peer);
    let between = match domain {
        AddressFamily::UNIX if peer == NO_ADDRESS => own,
        AddressFamily::UNIX => peer,
        _ => format!("{own} to {peer}"),
    };
    match sockopt::socket_peercred(socket)
        .ok()
        .filter(|_| domain == AddressFamily::UNIX)
    {
        Some(cred) if cred.pid.as_raw_nonzero().get() as u32 == pid => {
            format!("connected ({between}) within the task")
        }
        Some(cred) => {
            let who = outside::process(cred.pid.as_raw_nonzero().get() as u32);
            format!("connected ({between}), its peer was opened by {who}")
        }
        None => format!("connected ({between})"),
    }
}

/// The name of a socket in a message.
pub(super) fn address(address: &rustix::net::SocketAddrAny) -> String {
    use rustix::net::{SocketAddr, SocketAddrUnix};
    if let Ok(ip) = SocketAddr::try_from(address.clone()) {
        return ip.to_string();
    }
    // A family and nothing else: rustix would take it for an abstract name.
    let unnamed = address.addr_len() as usize <= size_of::<libc::sa_family_t>();
    let unix = SocketAddrUnix::try_from(address.clone());
    let (false, Ok(unix)) = (unnamed, unix) else {
        return NO_ADDRESS.to_owned();
    };
    let bytes = |b: &[u8]| icecore_images::ByteString::from(b).to_string();
    match (unix.path(), unix.abstract_name()) {
        (Some(path), _) => bytes(path.to_bytes()),
        (None, Some(name)) => format!("@{}", bytes(name)),
        (None, None) => NO_ADDRESS.to_owned(),
    }
}
