//! TCP, UDP and raw sockets as the kernel's sock_diag(7) tells of them: state,
//! what was shut down, queues, and the other end by its addresses.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_SHUTDOWN: u16 = 8;
/// `struct nlmsghdr` and `struct inet_diag_msg`.
const HEADER: usize = 16;
const MESSAGE: usize = 72;

/// A socket of the calling process' network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InetSocket {
    /// Its inode; 0: no descriptor refers to it.
    pub inode: u32,
    /// TCP_ESTABLISHED … as `netinet/tcp.h` numbers them.
    pub state: u8,
    /// Its own address.
    pub local: SocketAddr,
    /// The address it is connected to.
    pub peer: SocketAddr,
    /// Bytes received and not read; of a listening one connections not accepted.
    pub received: u32,
    /// Bytes not yet acknowledged.
    pub unsent: u32,
    /// RCV_SHUTDOWN (1), SEND_SHUTDOWN (2).
    pub shutdown: u8,
}

/// All sockets of a family and protocol that have an address.
///
/// # Errors
/// ENOENT where the kernel cannot tell (CONFIG_INET_DIAG, INET_UDP_DIAG).
pub fn all(family: AddressFamily, protocol: u8) -> io::Result<Vec<InetSocket>> {
    let diag = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    let family = family.as_raw() as u8;
    rustix::net::send(&diag, &request(family, protocol), SendFlags::empty())?;
    let mut found = Vec::new();
    let mut answer = vec![0; 64 << 10];
    loop {
        let (_, n) = rustix::net::recv(&diag, &mut answer[..], RecvFlags::empty())?;
        let mut rest = answer.get(..n).unwrap_or_default();
        while !rest.is_empty() {
            let len = u32_at(rest, 0)? as usize;
            let message = rest.get(..len).filter(|m| m.len() >= HEADER);
            let message = message.ok_or_else(garbled)?;
            match u16_at(message, 4)? {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => {
                    let error = -(u32_at(message, HEADER)? as i32);
                    return Err(io::Error::from_raw_os_error(error));
                }
                _ => found.push(parse(message)?),
            }
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// `struct inet_diag_req_v2` in its header.
fn request(family: u8, protocol: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(72_u32.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, protocol, 1 << (INET_DIAG_SHUTDOWN - 1), 0]);
    // All states; any address.
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend([0; 48]);
    bytes
}

fn parse(message: &[u8]) -> io::Result<InetSocket> {
    let body = message.get(HEADER..HEADER + MESSAGE).ok_or_else(garbled)?;
    let mut socket = InetSocket {
        state: body[1],
        local: address(body, 4, 8)?,
        peer: address(body, 6, 24)?,
        received: u32_at(body, 56)?,
        unsent: u32_at(body, 60)?,
        inode: u32_at(body, 68)?,
        shutdown: 0,
    };
    let mut rest = message.get(HEADER + MESSAGE..).unwrap_or_default();
    while !rest.is_empty() {
        let (len, kind) = (usize::from(u16_at(rest, 0)?), u16_at(rest, 2)?);
        if kind == INET_DIAG_SHUTDOWN {
            socket.shutdown = *rest.get(4).ok_or_else(garbled)?;
        }
        let next = len.max(4).next_multiple_of(4);
        rest = rest.get(next..).unwrap_or_default();
    }
    Ok(socket)
}

/// Port and address, in network order, at these places.
fn address(body: &[u8], port: usize, at: usize) -> io::Result<SocketAddr> {
    let port = u16_at(body, port)?.to_be();
    let bytes = body.get(at..).ok_or_else(garbled)?;
    let ip = match i32::from(body[0]) {
        libc::AF_INET => bytes.first_chunk::<4>().map(|b| IpAddr::from(*b)),
        _ => bytes.first_chunk::<16>().map(|b| IpAddr::from(*b)),
    };
    Ok(SocketAddr::new(ip.ok_or_else(garbled)?, port))
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
    use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;

    use super::*;

    fn find(of: impl AsFd, family: AddressFamily, protocol: i32) -> InetSocket {
        let inode = rustix::fs::fstat(of).unwrap().st_ino as u32;
        let all = all(family, protocol as u8).unwrap();
        *all.iter().find(|s| s.inode == inode).unwrap()
    }

    #[test]
    fn a_connection_and_its_two_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let seen = find(&listener, AddressFamily::INET, libc::IPPROTO_TCP);
        assert_eq!((seen.state, seen.received), (10, 1));
        let (other, _) = listener.accept().unwrap();
        one.shutdown(Shutdown::Write).unwrap();
        let seen = find(&one, AddressFamily::INET, libc::IPPROTO_TCP);
        assert_eq!(seen.local, one.local_addr().unwrap());
        assert_eq!(seen.peer, other.local_addr().unwrap());
        // The other end may take its time to acknowledge.
        assert!([4, 5].contains(&seen.state), "{}", seen.state);
        assert_eq!(seen.shutdown, 2);
    }

    #[test]
    fn a_datagram_socket() {
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        let seen = find(&socket, AddressFamily::INET6, libc::IPPROTO_UDP);
        assert_eq!(seen.local, socket.local_addr().unwrap());
    }
}
