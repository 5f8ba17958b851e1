//! AF_UNIX sockets as the kernel's sock_diag(7) tells of them, which nothing
//! else does: the other end, who waits to be accepted, what was shut down.

use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// UDIAG_SHOW_PEER, _ICONS, _RQLEN.
const SHOW: u32 = 4 | 8 | 16;
const UDIAG_SHOW_VFS: u32 = 2;
const UNIX_DIAG_VFS: u16 = 1;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_ICONS: u16 = 3;
const UNIX_DIAG_RQLEN: u16 = 4;
const UNIX_DIAG_SHUTDOWN: u16 = 6;
/// `struct nlmsghdr` and `struct unix_diag_msg`.
const HEADER: usize = 16;
const MESSAGE: usize = 16;

/// A socket of the calling process' network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnixSocket {
    /// It takes connections: the length that its queue of them may have.
    pub backlog: Option<u32>,
    /// Inodes of the sockets that wait to be accepted, the oldest first: 0 for
    /// one that was closed.
    pub waiting: Vec<u32>,
    /// Inode of the socket it is connected to: 0 when that one was closed, or
    /// was not accepted yet.
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
    // A backlog has at most 4096 entries where nobody raised the limit.
    let mut answer = vec![0; 1 << 16];
    let (_, n) = rustix::net::recv(&diag, &mut answer[..], RecvFlags::empty())?;
    parse(&answer[..n])
}

/// Whether a socket of this network namespace is bound to the file with this
/// device and inode number, as stat shows them.
pub fn is_bound(dev: u64, ino: u64) -> io::Result<bool> {
    // The kernel's own form of a device number.
    let dev = libc::major(dev) << 20 | libc::minor(dev);
    let diag = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    let all = request_for(0, UDIAG_SHOW_VFS, NLM_F_REQUEST | NLM_F_DUMP);
    rustix::net::send(&diag, &all, SendFlags::empty())?;
    let mut answer = vec![0; 1 << 16];
    loop {
        let (_, n) = rustix::net::recv(&diag, &mut answer[..], RecvFlags::empty())?;
        let mut rest = &answer[..n];
        while !rest.is_empty() {
            let (len, kind) = (u32_at(rest, 0)? as usize, u16_at(rest, 4)?);
            match kind {
                NLMSG_DONE => return Ok(false),
                SOCK_DIAG_BY_FAMILY => {}
                _ => return Err(garbled()),
            }
            let found = file_of(rest.get(..len).ok_or_else(garbled)?)?;
            if found == Some((dev, ino as u32)) {
                return Ok(true);
            }
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn file_of(message: &[u8]) -> io::Result<Option<(u32, u32)>> {
    let mut rest = message.get(HEADER + MESSAGE..).unwrap_or_default();
    while !rest.is_empty() {
        let (len, kind) = (usize::from(u16_at(rest, 0)?), u16_at(rest, 2)?);
        if kind == UNIX_DIAG_VFS {
            return Ok(Some((u32_at(rest, 8)?, u32_at(rest, 4)?)));
        }
        rest = rest
            .get(len.max(4).next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Ok(None)
}

fn request(inode: u32) -> Vec<u8> {
    request_for(inode, SHOW, NLM_F_REQUEST)
}

fn request_for(inode: u32, show: u32, flags: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(40_u32.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and port: one question, one answer.
    bytes.extend([0; 8]);
    bytes.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    // All states; any cookie.
    for word in [u32::MAX, inode, show, u32::MAX, u32::MAX] {
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
    const TCP_LISTEN: u8 = 10;
    let listens = *answer.get(HEADER + 2).ok_or_else(garbled)? == TCP_LISTEN;
    let mut socket = UnixSocket::default();
    let mut rest = answer.get(HEADER + MESSAGE..).unwrap_or_default();
    while !rest.is_empty() {
        let (len, kind) = (usize::from(u16_at(rest, 0)?), u16_at(rest, 2)?);
        match kind {
            UNIX_DIAG_PEER => socket.peer = Some(u32_at(rest, 4)?),
            UNIX_DIAG_ICONS => {
                let inodes = rest.get(4..len).ok_or_else(garbled)?.chunks_exact(4);
                let inodes = inodes.map(|i| i.try_into().map_or(0, u32::from_ne_bytes));
                socket.waiting = inodes.collect();
            }
            UNIX_DIAG_RQLEN if listens => socket.backlog = Some(u32_at(rest, 8)?),
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
            ..UnixSocket::default()
        };
        assert_eq!(lookup(inode(&a)).unwrap(), expected);
        a.shutdown(Shutdown::Read).unwrap();
        assert_eq!(lookup(inode(&a)).unwrap().shutdown, 1);
        assert_eq!(lookup(inode(&b)).unwrap().shutdown, 2);
        drop(b);
        let closed = UnixSocket {
            peer: Some(0),
            shutdown: 3,
            ..UnixSocket::default()
        };
        assert_eq!(lookup(inode(&a)).unwrap(), closed);
    }

    #[test]
    fn a_listener_tells_who_waits() {
        use std::os::unix::net::UnixListener;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let clients = [(); 3].map(|()| UnixStream::connect(&path).unwrap());
        let [one, gone, three] = clients;
        let inodes = vec![inode(&one), 0, inode(&three)];
        drop(gone);
        let found = lookup(inode(&listener)).unwrap();
        assert_eq!((found.waiting, found.peer), (inodes, None));
        let file = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
        let dev = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(&path).unwrap());
        assert!(is_bound(dev, file).unwrap());
        assert!(!is_bound(dev, 1).unwrap());
        assert!(found.backlog.is_some_and(|n| n >= 3));
        assert_eq!(lookup(inode(&one)).unwrap().peer, Some(0));
    }

    #[test]
    fn a_socket_that_is_none_is_an_error() {
        let e = lookup(u32::MAX).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::ENOENT));
    }
}
