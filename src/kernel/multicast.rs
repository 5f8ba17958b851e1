//! Multicast groups a socket has joined. The kernel lists groups by interface
//! only; whether a socket is a member it tells when asked for the socket's
//! filter of senders.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use super::socket_options;

const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_MSFILTER: i32 = 48;
const MCAST_EXCLUDE: u32 = 0;
/// `struct sockaddr_storage`.
const STORAGE: usize = 128;

/// A group on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// Index of the interface.
    pub interface: u32,
    /// The group.
    pub group: IpAddr,
    /// Whether some senders are kept out, or only some let in.
    pub filtered: bool,
}

/// The groups that `socket` has joined.
pub fn memberships(socket: impl AsFd) -> io::Result<Vec<Membership>> {
    let socket = socket.as_fd();
    let mut found = Vec::new();
    for (interface, group) in groups()? {
        if let Some(filtered) = filter(socket, interface, group)? {
            found.push(Membership {
                interface,
                group,
                filtered,
            });
        }
    }
    Ok(found)
}

/// Joins a group.
pub fn join(socket: impl AsFd, interface: u32, group: IpAddr) -> io::Result<()> {
    let request = request(interface, group);
    socket_options::set(socket, level(group), MCAST_JOIN_GROUP, &request)
}

fn level(group: IpAddr) -> i32 {
    match group {
        IpAddr::V4(_) => libc::IPPROTO_IP,
        IpAddr::V6(_) => libc::IPPROTO_IPV6,
    }
}

/// `struct group_req`, with which `struct group_filter` begins.
fn request(interface: u32, group: IpAddr) -> Vec<u8> {
    let mut bytes = interface.to_ne_bytes().to_vec();
    bytes.extend([0; 4]);
    match group {
        IpAddr::V4(ip) => {
            bytes.extend((libc::AF_INET as u16).to_ne_bytes());
            bytes.extend([0; 2]);
            bytes.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
            bytes.extend([0; 6]);
            bytes.extend(ip.octets());
        }
    }
    bytes.resize(8 + STORAGE, 0);
    bytes
}

/// Whether there is a filter of senders; `None`: no member.
fn filter(
    socket: std::os::fd::BorrowedFd<'_>,
    interface: u32,
    group: IpAddr,
) -> io::Result<Option<bool>> {
    let mut filter = request(interface, group);
    // Mode, and room for no sender: their number is told all the same.
    filter.extend([0; 8]);
    let told = socket_options::ask(socket, level(group), MCAST_MSFILTER, &mut filter);
    let word = |at: usize| {
        let bytes = filter.get(at..).and_then(|b| b.first_chunk());
        bytes.map_or(0, |b| u32::from_ne_bytes(*b))
    };
    match told.map_err(|e| e.raw_os_error()) {
        Ok(()) => {
            let (mode, senders) = (word(8 + STORAGE), word(12 + STORAGE));
            Ok(Some(mode != MCAST_EXCLUDE || senders != 0))
        }
        // Others: a group of the other family.
        Err(Some(
            libc::EADDRNOTAVAIL
            | libc::EINVAL
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::ENODEV,
        ))
        | Err(None) => Ok(None),
        Err(Some(e)) => Err(io::Error::from_raw_os_error(e)),
    }
}

/// All groups that anybody on this machine has joined.
fn groups() -> io::Result<Vec<(u32, IpAddr)>> {
    let mut groups = four(&read("/proc/net/igmp")?);
    groups.extend(six(&read("/proc/net/igmp6")?));
    Ok(groups)
}

fn read(path: &str) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        // A kernel without it.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

/// An interface on a line of its own, its groups on indented ones below.
fn four(text: &str) -> Vec<(u32, IpAddr)> {
    let mut groups = Vec::new();
    let mut interface = 0;
    for line in text.lines().skip(1) {
        let Some(first) = line.split_whitespace().next() else {
            continue;
        };
        match line.starts_with('\t') {
            false => interface = first.parse().unwrap_or(0),
            true => groups.extend(u32::from_str_radix(first, 16).ok().map(|word| {
                let ip = Ipv4Addr::from(word.to_ne_bytes());
                (interface, IpAddr::from(ip))
            })),
        }
    }
    groups
}

fn six(text: &str) -> Vec<(u32, IpAddr)> {
    let group = |line: &str| {
        let mut words = line.split_whitespace();
        let interface = words.next()?.parse().ok()?;
        let ip = u128::from_str_radix(words.nth(1)?, 16).ok()?;
        Some((interface, IpAddr::from(Ipv6Addr::from(ip))))
    };
    text.lines().filter_map(group).collect()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_member_is_told_from_who_is_none() {
        let group: IpAddr = "239.1.2.3".parse().unwrap();
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert_eq!(memberships(&socket).unwrap(), []);
        join(&socket, 1, group).unwrap();
        let expected = Membership {
            interface: 1,
            group,
            filtered: false,
        };
        assert_eq!(memberships(&socket).unwrap(), [expected]);
        let other = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert_eq!(memberships(&other).unwrap(), []);
        let six = UdpSocket::bind("[::]:0").unwrap();
        join(&six, 1, "ff05::7".parse().unwrap()).unwrap();
        assert_eq!(memberships(&six).unwrap().len(), 1);
    }
}
