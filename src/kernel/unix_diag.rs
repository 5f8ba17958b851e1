//! AF_UNIX sockets as the kernel's sock_diag(7) tells of them, which nothing
//! else does: the other end, and what was shut down.

use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const UDIAG_SHOW_PEER: u32 = 4;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_SHUTDOWN: u16 = 6;
/// `struct nlmsghdr` and `struct unix_diag_msg`.
const HEADER: usize = 16;
const MESSAGE: usize = 16;

/// A socket of the calling process' network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixSocket {
    /// Inode of the socket it is connected to: 0 when that one was closed.
    /// `None`: not connected, or listening.
    pub peer: Option<u32>,
    /// RCV_SHUTDOWN (1), SEND_SHUTDOWN (2).
    pub shutdown: u8,
}

/// The socket with this inode number. ENOENT: there is none here, or the
/// kernel was built without CONFIG_UNIX_DIAG.
pub fn lookup(inode: u32) -> io::Result<UnixSocket> {
    let diag = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    rustix::net::send(&diag, &request(inode), SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (_, n) = rustix::net::recv(&diag, &mut answer[..], RecvFlags::empty())?;
    parse(&answer[..n])
}

fn request(inode: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(40_u32.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port: one question, one answer.
    bytes.extend([0; 8]);
    bytes.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    // All states; any cookie.
    for word in [u32::MAX, inode, UDIAG_SHOW_PEER, u32::MAX, u32::MAX] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

fn parse(answer: &[u8]) -> io::Result<UnixSocket> {
    let kind = u16_at(answer, 4)?;
    if kind == NLMSG_ERROR {
        return Err(io::Error::from_raw_os_error(
            -(u32_at(answer, HEADER)? as i32),
        ));
    }
    if kind != SOCK_DIAG_BY_FAMILY {
        return Err(garbled());
    }
    let mut socket = UnixSocket {
        peer: None,
        shutdown: 0,
    };
    let mut rest = answer.get(HEADER + MESSAGE..).unwrap_or_default();
    while !rest.is_empty() {
        let (len, kind) = (usize::from(u16_at(rest, 0)?), u16_at(rest, 2)?);
        match kind {
            UNIX_DIAG_PEER => socket.peer = Some(u32_at(rest, 4)?),
            UNIX_DIAG_SHUTDOWN => socket.shutdown = *rest.get(4).ok_or_else(garbled)?,
            _ => {}
        }
        let next = len.max(4).next_multiple_of(4);
        rest = rest.get(next..).unwrap_or_default();
    }
    Ok(socket)
}

fn u16_at(bytes: &[u8], at: usize) -> io::Result<u16> {
    let word = bytes.get(at..).and_then(|b| b.first_chunk());
    word.map(|w| u16::from_ne_bytes(*w)).ok_or_else(garbled)
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    let word = bytes.get(at..).and_then(|b| b.first_chunk());
    word.map(|w| u32::from_ne_bytes(*w)).ok_or_else(garbled)
}

fn garbled() -> io::Error {
    io::Error::other("an answer of sock_diag that makes no sense")
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn inode(of: impl AsFd) -> u32 {
        rustix::fs::fstat(of).unwrap().st_ino as u32
    }

    #[test]
    fn two_ends_know_each_other_until_one_is_closed() {
        let (a, b) = UnixStream::pair().unwrap();
        let expected = UnixSocket {
            peer: Some(inode(&b)),
            shutdown: 0,
        };
        assert_eq!(lookup(inode(&a)).unwrap(), expected);
        a.shutdown(Shutdown::Read).unwrap();
        assert_eq!(lookup(inode(&a)).unwrap().shutdown, 1);
        assert_eq!(lookup(inode(&b)).unwrap().shutdown, 2);
        drop(b);
        let closed = UnixSocket {
            peer: Some(0),
            shutdown: 3,
        };
        assert_eq!(lookup(inode(&a)).unwrap(), closed);
    }

    #[test]
    fn a_socket_that_is_none_is_an_error() {
        let e = lookup(u32::MAX).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::ENOENT));
    }
}
