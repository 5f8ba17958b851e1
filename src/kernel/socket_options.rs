//! Options of sockets that outlive a sleep: the table of all of them, read and
//! set by number.
//!
//! Not in it, as getsockopt does not tell them or telling changes them: the
//! interface that IP_MULTICAST_IF was given by index, programs that share out
//! the connections of SO_REUSEPORT, TCP MD5 and AO keys, TCP_FASTOPEN_KEY,
//! SO_INCOMING_CPU and TCP_QUICKACK (which follow what arrives), SO_ERROR.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// How an option is set to what getsockopt has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// With the same bytes.
    Same,
    /// A buffer: getsockopt shows twice what one asks for. The number is that
    /// of the option that may exceed the machine's limit.
    Buffer(i32),
    /// A text, without what follows its NUL.
    Text,
}

/// Sockets that have an option which getsockopt also shows of others, with
/// another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// All that know it.
    Any,
    /// Not those that are connected: there it is a figure of the connection.
    Unconnected,
    /// Those that keep datagrams apart: streams show something, too, and take
    /// nothing.
    Datagrams,
}

/// An option.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// SOL_SOCKET, IPPROTO_IP ….
    pub level: i32,
    /// Its number.
    pub number: i32,
    /// Its name.
    pub name: &'static str,
    /// How it is set.
    pub form: Form,
    /// Which sockets have it.
    pub of: Of,
}

/// Longest value of any of them, bytes.
pub const LONGEST: usize = 256;

const UDPLITE: i32 = 136;
const ICMPV6: i32 = 58;
const RAW: i32 = 255;
const NETLINK: i32 = 270;
const PACKET: i32 = 263;
const TCP: i32 = libc::IPPROTO_TCP;
const UDP: i32 = libc::IPPROTO_UDP;
const IP: i32 = libc::IPPROTO_IP;
const IPV6: i32 = libc::IPPROTO_IPV6;
const SOCKET: i32 = libc::SOL_SOCKET;

const fn plain(level: i32, number: i32, name: &'static str) -> Known {
    let (form, of) = (Form::Same, Of::Any);
    Known {
        level,
        number,
        name,
        form,
        of,
    }
}

const fn text(level: i32, number: i32, name: &'static str) -> Known {
    let known = plain(level, number, name);
    Known {
        form: Form::Text,
        ..known
    }
}

const fn buffer(number: i32, name: &'static str, force: i32) -> Known {
    let known = plain(SOCKET, number, name);
    Known {
        form: Form::Buffer(force),
        ..known
    }
}

const fn unconnected(level: i32, number: i32, name: &'static str) -> Known {
    let known = plain(level, number, name);
    Known {
        of: Of::Unconnected,
        ..known
    }
}

const fn datagrams(level: i32, number: i32, name: &'static str) -> Known {
    let known = plain(level, number, name);
    Known {
        of: Of::Datagrams,
        ..known
    }
}

/// All of them, in the order in which they are set: SO_RCVLOWAT enlarges the
/// buffer, IP_TOS sets the priority, setting a buffer's size locks it, and a
/// locked filter stays.
#[rustfmt::skip]
pub const ALL: &[Known] = &[
    plain(SOCKET, 2, "SO_REUSEADDR"),
    plain(SOCKET, 15, "SO_REUSEPORT"),
    text(SOCKET, 25, "SO_BINDTODEVICE"),
    plain(SOCKET, 1, "SO_DEBUG"),
    plain(SOCKET, 5, "SO_DONTROUTE"),
    plain(SOCKET, 6, "SO_BROADCAST"),
    plain(SOCKET, 9, "SO_KEEPALIVE"),
    plain(SOCKET, 10, "SO_OOBINLINE"),
    plain(SOCKET, 11, "SO_NO_CHECK"),
    plain(SOCKET, 13, "SO_LINGER"),
    plain(SOCKET, 16, "SO_PASSCRED"),
    plain(SOCKET, 18, "SO_RCVLOWAT"),
    plain(SOCKET, 20, "SO_RCVTIMEO"),
    plain(SOCKET, 21, "SO_SNDTIMEO"),
    plain(SOCKET, 29, "SO_TIMESTAMP"),
    plain(SOCKET, 34, "SO_PASSSEC"),
    plain(SOCKET, 35, "SO_TIMESTAMPNS"),
    plain(SOCKET, 36, "SO_MARK"),
    plain(SOCKET, 37, "SO_TIMESTAMPING"),
    plain(SOCKET, 40, "SO_RXQ_OVFL"),
    plain(SOCKET, 41, "SO_WIFI_STATUS"),
    plain(SOCKET, 42, "SO_PEEK_OFF"),
    plain(SOCKET, 43, "SO_NOFCS"),
    plain(SOCKET, 45, "SO_SELECT_ERR_QUEUE"),
    plain(SOCKET, 46, "SO_BUSY_POLL"),
    plain(SOCKET, 47, "SO_MAX_PACING_RATE"),
    plain(SOCKET, 60, "SO_ZEROCOPY"),
    plain(SOCKET, 61, "SO_TXTIME"),
    plain(SOCKET, 63, "SO_TIMESTAMP_NEW"),
    plain(SOCKET, 64, "SO_TIMESTAMPNS_NEW"),
    plain(SOCKET, 65, "SO_TIMESTAMPING_NEW"),
    plain(SOCKET, 69, "SO_PREFER_BUSY_POLL"),
    plain(SOCKET, 73, "SO_RESERVE_MEM"),
    plain(SOCKET, 74, "SO_TXREHASH"),
    plain(SOCKET, 75, "SO_RCVMARK"),
    plain(SOCKET, 76, "SO_PASSPIDFD"),
    plain(SOCKET, 82, "SO_RCVPRIORITY"),
    plain(SOCKET, 83, "SO_PASSRIGHTS"),
    plain(IP, 1, "IP_TOS"),
    plain(IP, 2, "IP_TTL"),
    plain(IP, 3, "IP_HDRINCL"),
    plain(IP, 4, "IP_OPTIONS"),
    plain(IP, 6, "IP_RECVOPTS"),
    plain(IP, 7, "IP_RETOPTS"),
    plain(IP, 8, "IP_PKTINFO"),
    plain(IP, 10, "IP_MTU_DISCOVER"),
    plain(IP, 11, "IP_RECVERR"),
    plain(IP, 12, "IP_RECVTTL"),
    plain(IP, 13, "IP_RECVTOS"),
    plain(IP, 15, "IP_FREEBIND"),
    plain(IP, 18, "IP_PASSSEC"),
    plain(IP, 19, "IP_TRANSPARENT"),
    plain(IP, 20, "IP_RECVORIGDSTADDR"),
    plain(IP, 21, "IP_MINTTL"),
    plain(IP, 22, "IP_NODEFRAG"),
    plain(IP, 23, "IP_CHECKSUM"),
    plain(IP, 24, "IP_BIND_ADDRESS_NO_PORT"),
    plain(IP, 25, "IP_RECVFRAGSIZE"),
    plain(IP, 26, "IP_RECVERR_RFC4884"),
    datagrams(IP, 32, "IP_MULTICAST_IF"),
    datagrams(IP, 33, "IP_MULTICAST_TTL"),
    datagrams(IP, 34, "IP_MULTICAST_LOOP"),
    plain(IP, 49, "IP_MULTICAST_ALL"),
    plain(IP, 50, "IP_UNICAST_IF"),
    plain(IP, 51, "IP_LOCAL_PORT_RANGE"),
    plain(IPV6, 26, "IPV6_V6ONLY"),
    plain(IPV6, 2, "IPV6_2292PKTINFO"),
    plain(IPV6, 3, "IPV6_2292HOPOPTS"),
    plain(IPV6, 4, "IPV6_2292DSTOPTS"),
    plain(IPV6, 5, "IPV6_2292RTHDR"),
    plain(IPV6, 8, "IPV6_2292HOPLIMIT"),
    plain(IPV6, 16, "IPV6_UNICAST_HOPS"),
    datagrams(IPV6, 17, "IPV6_MULTICAST_IF"),
    datagrams(IPV6, 18, "IPV6_MULTICAST_HOPS"),
    datagrams(IPV6, 19, "IPV6_MULTICAST_LOOP"),
    plain(IPV6, 23, "IPV6_MTU_DISCOVER"),
    plain(IPV6, 25, "IPV6_RECVERR"),
    plain(IPV6, 29, "IPV6_MULTICAST_ALL"),
    plain(IPV6, 30, "IPV6_ROUTER_ALERT_ISOLATE"),
    plain(IPV6, 31, "IPV6_RECVERR_RFC4884"),
    plain(IPV6, 33, "IPV6_FLOWINFO_SEND"),
    plain(IPV6, 49, "IPV6_RECVPKTINFO"),
    plain(IPV6, 51, "IPV6_RECVHOPLIMIT"),
    plain(IPV6, 53, "IPV6_RECVHOPOPTS"),
    plain(IPV6, 54, "IPV6_HOPOPTS"),
    plain(IPV6, 55, "IPV6_RTHDRDSTOPTS"),
    plain(IPV6, 56, "IPV6_RECVRTHDR"),
    plain(IPV6, 57, "IPV6_RTHDR"),
    plain(IPV6, 58, "IPV6_RECVDSTOPTS"),
    plain(IPV6, 59, "IPV6_DSTOPTS"),
    plain(IPV6, 60, "IPV6_RECVPATHMTU"),
    plain(IPV6, 62, "IPV6_DONTFRAG"),
    plain(IPV6, 66, "IPV6_RECVTCLASS"),
    plain(IPV6, 67, "IPV6_TCLASS"),
    plain(IPV6, 70, "IPV6_AUTOFLOWLABEL"),
    plain(IPV6, 72, "IPV6_ADDR_PREFERENCES"),
    plain(IPV6, 73, "IPV6_MINHOPCOUNT"),
    plain(IPV6, 74, "IPV6_RECVORIGDSTADDR"),
    plain(IPV6, 75, "IPV6_TRANSPARENT"),
    plain(IPV6, 76, "IPV6_UNICAST_IF"),
    plain(IPV6, 77, "IPV6_RECVFRAGSIZE"),
    plain(IPV6, 78, "IPV6_FREEBIND"),
    plain(SOCKET, 12, "SO_PRIORITY"),
    plain(TCP, 1, "TCP_NODELAY"),
    unconnected(TCP, 2, "TCP_MAXSEG"),
    plain(TCP, 3, "TCP_CORK"),
    plain(TCP, 4, "TCP_KEEPIDLE"),
    plain(TCP, 5, "TCP_KEEPINTVL"),
    plain(TCP, 6, "TCP_KEEPCNT"),
    plain(TCP, 7, "TCP_SYNCNT"),
    plain(TCP, 8, "TCP_LINGER2"),
    plain(TCP, 9, "TCP_DEFER_ACCEPT"),
    unconnected(TCP, 10, "TCP_WINDOW_CLAMP"),
    text(TCP, 13, "TCP_CONGESTION"),
    plain(TCP, 16, "TCP_THIN_LINEAR_TIMEOUTS"),
    plain(TCP, 17, "TCP_THIN_DUPACK"),
    plain(TCP, 18, "TCP_USER_TIMEOUT"),
    unconnected(TCP, 23, "TCP_FASTOPEN"),
    plain(TCP, 25, "TCP_NOTSENT_LOWAT"),
    plain(TCP, 27, "TCP_SAVE_SYN"),
    unconnected(TCP, 30, "TCP_FASTOPEN_CONNECT"),
    plain(TCP, 34, "TCP_FASTOPEN_NO_COOKIE"),
    plain(TCP, 36, "TCP_INQ"),
    plain(TCP, 37, "TCP_TX_DELAY"),
    plain(TCP, 44, "TCP_RTO_MAX_MS"),
    plain(UDP, 100, "UDP_ENCAP"),
    plain(UDP, 101, "UDP_NO_CHECK6_TX"),
    plain(UDP, 102, "UDP_NO_CHECK6_RX"),
    plain(UDP, 103, "UDP_SEGMENT"),
    plain(UDP, 104, "UDP_GRO"),
    plain(UDPLITE, 10, "UDPLITE_SEND_CSCOV"),
    plain(UDPLITE, 11, "UDPLITE_RECV_CSCOV"),
    plain(RAW, 1, "ICMP_FILTER"),
    plain(ICMPV6, 1, "ICMPV6_FILTER"),
    plain(NETLINK, 3, "NETLINK_PKTINFO"),
    plain(NETLINK, 4, "NETLINK_BROADCAST_ERROR"),
    plain(NETLINK, 5, "NETLINK_NO_ENOBUFS"),
    plain(NETLINK, 8, "NETLINK_LISTEN_ALL_NSID"),
    plain(NETLINK, 10, "NETLINK_CAP_ACK"),
    plain(NETLINK, 11, "NETLINK_EXT_ACK"),
    plain(NETLINK, 12, "NETLINK_GET_STRICT_CHK"),
    plain(PACKET, 8, "PACKET_AUXDATA"),
    plain(PACKET, 9, "PACKET_ORIGDEV"),
    plain(PACKET, 10, "PACKET_VERSION"),
    plain(PACKET, 12, "PACKET_RESERVE"),
    plain(PACKET, 14, "PACKET_LOSS"),
    plain(PACKET, 15, "PACKET_VNET_HDR"),
    plain(PACKET, 17, "PACKET_TIMESTAMP"),
    plain(PACKET, 19, "PACKET_TX_HAS_OFF"),
    plain(PACKET, 20, "PACKET_QDISC_BYPASS"),
    plain(PACKET, 23, "PACKET_IGNORE_OUTGOING"),
    buffer(7, "SO_SNDBUF", libc::SO_SNDBUFFORCE),
    buffer(8, "SO_RCVBUF", libc::SO_RCVBUFFORCE),
    plain(SOCKET, 72, "SO_BUF_LOCK"),
    plain(SOCKET, 44, "SO_LOCK_FILTER"),
];

/// The option with this level and number.
pub fn known(level: i32, number: i32) -> Option<&'static Known> {
    let mut all = ALL.iter();
    all.find(|known| (known.level, known.number) == (level, number))
}

/// What getsockopt shows; `None`: the socket has no such option.
pub fn get(socket: impl AsFd, level: i32, number: i32) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; LONGEST];
    let e = match ask(&socket, level, number, &mut value) {
        Ok(()) => return Ok(Some(value)),
        Err(e) => e,
    };
    // ENOTCONN: figures of a connection.
    let none = [
        libc::ENOPROTOOPT,
        libc::EOPNOTSUPP,
        libc::EINVAL,
        libc::ENOTCONN,
    ];
    match e.raw_os_error().is_some_and(|n| none.contains(&n)) {
        true => Ok(None),
        false => Err(e),
    }
}

/// getsockopt as it is: `value` is what the kernel reads there and has room
/// for; afterwards it is what was written.
pub fn ask(socket: impl AsFd, level: i32, number: i32, value: &mut Vec<u8>) -> io::Result<()> {
    let mut len = value.len() as libc::socklen_t;
    // SAFETY: the kernel reads and writes at most `len` bytes at `value`.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            number,
            value.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    match ret {
        0 => {
            value.truncate(len as usize);
            Ok(())
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets an option to bytes as setsockopt takes them.
pub fn set(socket: impl AsFd, level: i32, number: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads `value.len()` bytes at `value`.
    let ret = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            number,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    match ret {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An option that is an int.
pub fn number(socket: impl AsFd, level: i32, number: i32) -> io::Result<Option<i32>> {
    let value = get(socket, level, number)?;
    let number = value.and_then(|v| v.first_chunk().map(|n| i32::from_ne_bytes(*n)));
    Ok(number)
}

/// Sets an option to what getsockopt has shown of another socket, if it is not
/// that already.
pub fn set_as_shown(socket: impl AsFd, known: &Known, shown: &[u8]) -> io::Result<()> {
    let socket = socket.as_fd();
    if get(socket, known.level, known.number)?.as_deref() == Some(shown) {
        return Ok(());
    }
    match known.form {
        Form::Same => set(socket, known.level, known.number, shown),
        Form::Text => {
            let end = shown.iter().position(|b| *b == 0).unwrap_or(shown.len());
            set(socket, known.level, known.number, &shown[..end])
        }
        Form::Buffer(force) => {
            let size = shown.first_chunk().map_or(0, |n| i32::from_ne_bytes(*n));
            let half = (size / 2).to_ne_bytes();
            // Up to the machine's limit it goes without privileges.
            match set(socket, known.level, force, &half) {
                Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                    set(socket, known.level, known.number, &half)
                }
                other => other,
            }
        }
    }
}

/// One instruction of a classic filter: code, jt, jf, k.
pub type Instruction = (u16, u8, u8, u32);

/// The classic filter attached to a socket (SO_ATTACH_FILTER); empty: none.
///
/// # Errors
/// EACCES where the filter is an eBPF program, which cannot be read.
pub fn filter(socket: impl AsFd) -> io::Result<Vec<Instruction>> {
    let socket = socket.as_fd();
    let ask = |room: &mut [libc::sock_filter]| {
        let mut count = room.len() as libc::socklen_t;
        // SAFETY: the kernel writes as many instructions as `count` says; of
        // none it tells how many there are.
        let ret = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                SOCKET,
                libc::SO_GET_FILTER,
                room.as_mut_ptr().cast(),
                &raw mut count,
            )
        };
        match ret {
            0 => Ok(count as usize),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let nothing = libc::sock_filter {
        code: 0,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let mut room = vec![nothing; ask(&mut [])?];
    if !room.is_empty() {
        ask(&mut room)?;
    }
    let words = room.into_iter();
    Ok(words.map(|i| (i.code, i.jt, i.jf, i.k)).collect())
}

/// Attaches a classic filter.
pub fn set_filter(socket: impl AsFd, program: &[Instruction]) -> io::Result<()> {
    let word = |&(code, jt, jf, k): &Instruction| libc::sock_filter { code, jt, jf, k };
    let mut words: Vec<_> = program.iter().map(word).collect();
    let program = libc::sock_fprog {
        len: words.len() as u16,
        filter: words.as_mut_ptr(),
    };
    // SAFETY: the kernel reads `program`, and as many instructions as it says.
    let ret = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    match ret {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn all(socket: impl AsFd) -> Vec<(&'static Known, Vec<u8>)> {
        let value = |known: &'static Known| {
            let shown = get(&socket, known.level, known.number).unwrap();
            shown.map(|shown| (known, shown))
        };
        ALL.iter().filter_map(value).collect()
    }

    #[test]
    fn every_option_can_be_set_to_what_another_socket_shows() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let from = UdpSocket::bind(address).unwrap();
            set(&from, SOCKET, 6, &1_i32.to_ne_bytes()).unwrap();
            set(&from, SOCKET, 8, &10_000_i32.to_ne_bytes()).unwrap();
            set(&from, IP, 1, &0x10_i32.to_ne_bytes()).unwrap();
            let to = UdpSocket::bind(address).unwrap();
            let shown = all(&from);
            assert_ne!(shown.len(), 0);
            for (known, value) in &shown {
                set_as_shown(&to, known, value).unwrap_or_else(|e| panic!("{}: {e}", known.name));
            }
            for ((known, value), (_, other)) in shown.iter().zip(all(&to)) {
                assert_eq!(*value, other, "{}", known.name);
            }
        }
    }

    #[test]
    fn setting_what_is_already_there_changes_nothing() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let before = all(&socket);
        for (known, value) in &before {
            set_as_shown(&socket, known, value).unwrap_or_else(|e| panic!("{}: {e}", known.name));
        }
        assert_eq!(number(&socket, SOCKET, 72).unwrap(), Some(0));
    }

    #[test]
    fn no_option_is_there_twice() {
        for (n, known) in ALL.iter().enumerate() {
            let other = ALL[..n].iter().find(|o| {
                o.name == known.name || (o.level, o.number) == (known.level, known.number)
            });
            assert!(other.is_none(), "{}", known.name);
        }
    }

    #[test]
    fn a_filter_comes_back() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(filter(&socket).unwrap(), []);
        let program = [
            (0x20, 0, 0, 0),
            (0x15, 0, 1, 7),
            (0x06, 0, 0, u32::MAX),
            (0x06, 0, 0, 0),
        ];
        set_filter(&socket, &program).unwrap();
        assert_eq!(filter(&socket).unwrap(), program);
    }
}
