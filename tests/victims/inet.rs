//! TCP that listens or does nothing yet, UDP and its relatives.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RawProtocol, RecvFlags, Shutdown, SocketFlags, SocketType, bind, connect,
    getsockname, listen, recvfrom, sendto, shutdown, socket_with,
};

use crate::harness::{Stage, Victim};
use crate::regular::text;
use crate::sys::{at, call, same};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("inet-listening", listening),
        Victim::new("inet-shared-port", shared_port),
        Victim::new("inet-idle", idle),
        Victim::new("inet-options", options),
        Victim::new("udp-queued", queued),
        Victim::new("udp-connected", connected),
        Victim::new("udp-peeking", peeking),
        Victim::new("udp-options", udp_options),
        Victim::new("inet-datagrams", relatives),
        Victim::new("inet-filter", filter),
        Victim::refused(
            "inet-backlog",
            "1 connections have not been accepted",
            backlog,
        ),
        Victim::refused("udp-error", "an error is pending", error),
    ]
}

const LIMIT: Option<Duration> = Some(Duration::from_secs(20));

/// A round trip through a listening socket.
fn serves(listener: &TcpListener) -> Result<(), String> {
    let mut address = listener.local_addr().map_err(text("getsockname"))?;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    serves_at(listener, address)
}

fn serves_at(listener: &TcpListener, address: SocketAddr) -> Result<(), String> {
    let mut client = TcpStream::connect(address).map_err(text("connect"))?;
    let (mut server, _) = listener.accept().map_err(text("accept"))?;
    server.write_all(b"served").map_err(text("write"))?;
    // The side that closes first keeps the port for a while.
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).map_err(text("read"))?;
    same("answer", &answer.as_str(), &"served")
}

/// Every kind of address; one socket that does not block.
fn listening(stage: &mut Stage) -> Result<(), String> {
    let addresses = ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "127.0.0.77:0"];
    let mut all = Vec::new();
    for address in addresses {
        all.push(TcpListener::bind(address).map_err(text("bind"))?);
    }
    let dual = TcpListener::bind("[::]:0").map_err(text("bind"))?;
    let (six, backlog) = (six_only()?, 7);
    listen(&six, backlog).map_err(text("listen"))?;
    let six = TcpListener::from(six);
    all[2].set_nonblocking(true).map_err(text("fcntl"))?;
    while stage.next()? {
        let nobody = all[2].accept().map(drop).map_err(|e| e.kind());
        same("accepting", &nobody, &Err(std::io::ErrorKind::WouldBlock))?;
        for listener in all.iter().chain([&dual, &six]) {
            serves(listener)?;
        }
        let port = |l: &TcpListener| {
            l.local_addr()
                .map(|a| a.port())
                .map_err(text("getsockname"))
        };
        let four = |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        serves_at(&dual, four(port(&dual)?))?;
        let refused = TcpStream::connect(four(port(&six)?)).map(drop);
        let refused = refused.map_err(|e| e.kind());
        let expected = Err(std::io::ErrorKind::ConnectionRefused);
        same("IPv4 to v6only", &refused, &expected)?;
        same("backlog", &max_backlog(&six)?, &7)?;
    }
    Ok(())
}

fn six_only() -> Result<OwnedFd, String> {
    let six = make(AddressFamily::INET6, SocketType::STREAM, 0)?;
    sockopt::set_ipv6_v6only(&six, true).map_err(text("IPV6_V6ONLY"))?;
    // Without it nobody, restorer or not, could bind again for a minute.
    sockopt::set_socket_reuseaddr(&six, true).map_err(text("SO_REUSEADDR"))?;
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
    bind(&six, &any).map_err(text("bind"))?;
    Ok(six)
}

fn make(family: AddressFamily, kind: SocketType, protocol: u32) -> Result<OwnedFd, String> {
    let protocol = RawProtocol::new(protocol).map(rustix::net::Protocol::from_raw);
    socket_with(family, kind, SocketFlags::CLOEXEC, protocol).map_err(text("socket"))
}

/// What TCP_INFO says of a listening socket.
fn max_backlog(socket: impl AsFd) -> Result<u32, String> {
    let info = option(socket, 6, 11)?;
    let word = info.get(28..).and_then(|b| b.first_chunk());
    word.map(|w| u32::from_ne_bytes(*w))
        .ok_or_else(|| "TCP_INFO is too short".to_owned())
}

fn option(socket: impl AsFd, level: i32, number: i32) -> Result<Vec<u8>, String> {
    icecore::kernel::socket_options::get(socket, level, number)
        .map_err(text("getsockopt"))
        .map(Option::unwrap_or_default)
}

fn set_option(socket: impl AsFd, level: i32, number: i32, value: i32) -> Result<(), String> {
    let value = value.to_ne_bytes();
    icecore::kernel::socket_options::set(socket, level, number, &value).map_err(text("setsockopt"))
}

fn int(socket: impl AsFd, level: i32, number: i32) -> Result<i32, String> {
    let value = icecore::kernel::socket_options::number(socket, level, number);
    value
        .map_err(text("getsockopt"))
        .map(|v| v.unwrap_or(i32::MIN))
}

/// Two that listen at one port, and one that is only bound there.
fn shared_port(stage: &mut Stage) -> Result<(), String> {
    let mut address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    let mut all = Vec::new();
    for _ in 0..3 {
        let socket = make(AddressFamily::INET, SocketType::STREAM, 0)?;
        sockopt::set_socket_reuseport(&socket, true).map_err(text("SO_REUSEPORT"))?;
        bind(&socket, &address).map_err(text("bind"))?;
        let name = getsockname(&socket).map_err(text("getsockname"))?;
        address = SocketAddr::try_from(name).map_err(text("address"))?;
        all.push(socket);
    }
    let idle = all.pop();
    for socket in &all {
        listen(socket, 20).map_err(text("listen"))?;
        rustix::io::ioctl_fionbio(socket, true).map_err(text("FIONBIO"))?;
    }
    let all: Vec<TcpListener> = all.into_iter().map(TcpListener::from).collect();
    while stage.next()? {
        let mut served = [0; 2];
        for _ in 0..40 {
            let _client = TcpStream::connect(address).map_err(text("connect"))?;
            while served.iter().sum::<i32>() % 2 == 0 {
                for (n, listener) in all.iter().enumerate() {
                    served[n] += i32::from(listener.accept().is_ok());
                }
            }
            served[0] += served.iter().sum::<i32>() % 2;
        }
        same("both are chosen", &(served[0] > 0 && served[1] > 0), &true)?;
    }
    drop(idle);
    Ok(())
}

/// Neither listening nor connected, bound or not.
fn idle(stage: &mut Stage) -> Result<(), String> {
    let fresh = make(AddressFamily::INET, SocketType::STREAM, 0)?;
    let fresh6 = make(AddressFamily::INET6, SocketType::STREAM, 0)?;
    let bound = make(AddressFamily::INET, SocketType::STREAM, 0)?;
    let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    bind(&bound, &local).map_err(text("bind"))?;
    let name = getsockname(&bound).map_err(text("getsockname"))?;
    while stage.next()? {
        same(
            "address",
            &getsockname(&bound).map_err(text("getsockname"))?,
            &name,
        )?;
        let read = recvfrom(&fresh, &mut [0; 1][..], RecvFlags::empty()).map(drop);
        same("reading", &read, &Err(Errno::NOTCONN))?;
    }
    let server = TcpListener::bind("[::1]:0").map_err(text("bind"))?;
    let address = server.local_addr().map_err(text("getsockname"))?;
    connect(&fresh6, &address).map_err(text("connect"))?;
    let server = TcpListener::bind("127.0.0.1:0").map_err(text("bind"))?;
    let address = server.local_addr().map_err(text("getsockname"))?;
    connect(&bound, &address).map_err(text("connect"))?;
    let (_, from) = server.accept().map_err(text("accept"))?;
    let own = SocketAddr::try_from(name).map_err(text("address"))?;
    same("client", &from, &own)
}

const SOL: i32 = libc::SOL_SOCKET;

/// Options of TCP: level, number, value as it is set, and as it is shown.
const TCP_OPTIONS: [(i32, i32, i32, i32); 19] = [
    (SOL, libc::SO_KEEPALIVE, 1, 1),
    (SOL, libc::SO_OOBINLINE, 1, 1),
    (SOL, libc::SO_RCVLOWAT, 5, 5),
    (SOL, libc::SO_MARK, 33, 33),
    (SOL, libc::SO_RCVBUF, 30_000, 60_000),
    (SOL, libc::SO_TIMESTAMPNS, 1, 1),
    (0, libc::IP_TOS, 0x10, 0x10),
    (SOL, libc::SO_PRIORITY, 3, 3),
    (0, libc::IP_TTL, 12, 12),
    (0, libc::IP_TRANSPARENT, 1, 1),
    (6, libc::TCP_NODELAY, 1, 1),
    (6, libc::TCP_MAXSEG, 1000, 1000),
    (6, libc::TCP_KEEPIDLE, 77, 77),
    (6, libc::TCP_KEEPINTVL, 7, 7),
    (6, libc::TCP_KEEPCNT, 3, 3),
    (6, libc::TCP_SYNCNT, 2, 2),
    (6, libc::TCP_LINGER2, 20, 20),
    (6, libc::TCP_USER_TIMEOUT, 5000, 5000),
    (6, libc::TCP_DEFER_ACCEPT, 7, 7),
];

fn options(stage: &mut Stage) -> Result<(), String> {
    let plain = TcpListener::bind("127.0.0.1:0").map_err(text("bind"))?;
    let socket = make(AddressFamily::INET, SocketType::STREAM, 0)?;
    for (level, number, value, _) in TCP_OPTIONS {
        set_option(&socket, level, number, value)?;
    }
    let linger = Some(Duration::from_secs(9));
    sockopt::set_socket_linger(&socket, linger).map_err(text("SO_LINGER"))?;
    let time = Some(Duration::from_secs(2));
    sockopt::set_socket_timeout(&socket, Timeout::Recv, time).map_err(text("SO_RCVTIMEO"))?;
    sockopt::set_tcp_congestion(&socket, "cubic").map_err(text("TCP_CONGESTION"))?;
    let device = b"lo";
    icecore::kernel::socket_options::set(&socket, SOL, libc::SO_BINDTODEVICE, device)
        .map_err(text("SO_BINDTODEVICE"))?;
    // What the kernel makes of it.
    let shown = |socket: &OwnedFd| -> Result<Vec<i32>, String> {
        let all = TCP_OPTIONS.iter();
        all.map(|(level, number, ..)| int(socket, *level, *number))
            .collect()
    };
    let before = shown(&socket)?;
    for ((level, number, _, expected), value) in TCP_OPTIONS.iter().zip(&before) {
        if (*level, *number) != (6, libc::TCP_DEFER_ACCEPT) {
            same(&format!("option {level}/{number}"), value, expected)?;
        }
    }
    while stage.next()? {
        same("options", &shown(&socket)?, &before)?;
        same("SO_LINGER", &sockopt::socket_linger(&socket), &Ok(linger))?;
        let found = sockopt::socket_timeout(&socket, Timeout::Recv);
        same("SO_RCVTIMEO", &found, &Ok(time))?;
        let found = sockopt::tcp_congestion(&socket).map_err(text("TCP_CONGESTION"))?;
        same("TCP_CONGESTION", &found.as_str(), &"cubic")?;
        let device = option(&socket, SOL, libc::SO_BINDTODEVICE)?;
        same("device", &device.starts_with(b"lo\0"), &true)?;
        same("reuse", &int(&socket, SOL, libc::SO_REUSEADDR)?, &0)?;
        // The standard library sets it; buffers are the kernel's to change.
        same("reuse", &int(&plain, SOL, libc::SO_REUSEADDR)?, &1)?;
        same("locked", &int(&plain, SOL, 72)?, &0)?;
        same("locked", &int(&socket, SOL, 72)?, &2)?;
    }
    Ok(())
}

fn receives(socket: &UdpSocket, data: &[u8], from: SocketAddr) -> Result<(), String> {
    let mut room = vec![0; 70_000];
    let (n, sender) = socket.recv_from(&mut room).map_err(text("recvfrom"))?;
    same("sender", &sender, &from)?;
    same("data", &(&room[..n] == data), &true)
}

fn nothing(socket: &UdpSocket) -> Result<(), String> {
    let got = recvfrom(socket, &mut [0; 1][..], RecvFlags::DONTWAIT);
    same("queue", &got.map(drop), &Err(Errno::AGAIN))
}

fn udp(address: &str) -> Result<(UdpSocket, SocketAddr), String> {
    let socket = UdpSocket::bind(address).map_err(text("bind"))?;
    socket
        .set_read_timeout(LIMIT)
        .map_err(text("SO_RCVTIMEO"))?;
    let name = socket.local_addr().map_err(text("getsockname"))?;
    Ok((socket, name))
}

/// Datagrams of several senders, one of them closed, large and empty ones.
fn queued(stage: &mut Stage) -> Result<(), String> {
    let large = vec![0x5a; 60_000];
    let families = [
        ("127.0.0.1:0", "127.0.0.1", ["127.0.0.5:0", "127.0.0.1:0"]),
        ("0.0.0.0:0", "127.0.0.1", ["127.0.0.1:0", "127.0.0.6:0"]),
        ("[::1]:0", "::1", ["[::1]:0", "[::1]:0"]),
        ("[::]:0", "::1", ["[::1]:0", "[::1]:0"]),
    ];
    let mut all = Vec::new();
    for (own, reached, senders) in families {
        let (socket, own) = udp(own)?;
        let ip = reached.parse().map_err(text("address"))?;
        let to = SocketAddr::new(ip, own.port());
        let (one, first) = udp(senders[0])?;
        let (gone, second) = udp(senders[1])?;
        let sends: [(&UdpSocket, &[u8]); 5] = [
            (&one, b"first"),
            (&gone, b"second of another"),
            (&one, b""),
            (&gone, &large),
            (&one, b"last"),
        ];
        for (from, data) in sends {
            from.send_to(data, to).map_err(text("sendto"))?;
        }
        all.push((socket, to, one, first, second));
    }
    let mut full = true;
    while stage.next()? {
        for (socket, to, one, first, second) in &all {
            if full {
                receives(socket, b"first", *first)?;
                receives(socket, b"second of another", *second)?;
                receives(socket, b"", *first)?;
                receives(socket, &large, *second)?;
            }
            receives(socket, b"last", *first)?;
            nothing(socket)?;
            one.send_to(b"last", to).map_err(text("sendto"))?;
        }
        full = false;
    }
    Ok(())
}

/// Connected sockets, what they got before they were, and what was shut down.
fn connected(stage: &mut Stage) -> Result<(), String> {
    let (one, one_at) = udp("127.0.0.1:0")?;
    let (other, other_at) = udp("127.0.0.1:0")?;
    let (stranger, stranger_at) = udp("127.0.0.1:0")?;
    stranger
        .send_to(b"before", one_at)
        .map_err(text("sendto"))?;
    one.connect(other_at).map_err(text("connect"))?;
    other.connect(one_at).map_err(text("connect"))?;
    // The port is the kernel's choice.
    let fresh = UdpSocket::from(make(AddressFamily::INET, SocketType::DGRAM, 0)?);
    fresh.connect(other_at).map_err(text("connect"))?;
    let fresh_at = fresh.local_addr().map_err(text("getsockname"))?;
    let (shut, _) = udp("[::1]:0")?;
    let own = shut.local_addr().map_err(text("getsockname"))?;
    shut.connect(own).map_err(text("connect"))?;
    shutdown(&shut, Shutdown::Write).map_err(text("shutdown"))?;
    receives(&one, b"before", stranger_at)?;
    stranger
        .send_to(b"refused", one_at)
        .map_err(text("sendto"))?;
    while stage.next()? {
        nothing(&one)?;
        same(
            "peer",
            &fresh.peer_addr().map_err(text("getpeername"))?,
            &other_at,
        )?;
        same(
            "name",
            &fresh.local_addr().map_err(text("getsockname"))?,
            &fresh_at,
        )?;
        one.send(b"there").map_err(text("send"))?;
        receives(&other, b"there", one_at)?;
        other.send(b"back").map_err(text("send"))?;
        stranger
            .send_to(b"refused", one_at)
            .map_err(text("sendto"))?;
        receives(&one, b"back", other_at)?;
        nothing(&one)?;
        let shut = sendto(&shut, b"x", rustix::net::SendFlags::NOSIGNAL, &own).map(drop);
        same("shut down", &shut, &Err(Errno::PIPE))?;
    }
    Ok(())
}

/// The target's own peek offset stays where it is.
fn peeking(stage: &mut Stage) -> Result<(), String> {
    let (socket, at) = udp("127.0.0.1:0")?;
    let (from, _) = udp("127.0.0.1:0")?;
    for word in ["one", "three", "five"] {
        from.send_to(word.as_bytes(), at).map_err(text("sendto"))?;
    }
    set_option(&socket, SOL, libc::SO_PEEK_OFF, 3)?;
    let mut words = ["three", "five"].into_iter();
    while stage.next()? {
        let Some(word) = words.next() else {
            same("offset", &int(&socket, SOL, libc::SO_PEEK_OFF)?, &12)?;
            continue;
        };
        let mut room = [0; 20];
        let n = socket.peek(&mut room).map_err(text("peek"))?;
        same("peeked", &&room[..n], &word.as_bytes())?;
    }
    Ok(())
}

const UDP_OPTIONS: [(i32, i32, i32); 8] = [
    (SOL, libc::SO_BROADCAST, 1),
    (SOL, libc::SO_NO_CHECK, 1),
    (SOL, libc::SO_RXQ_OVFL, 1),
    (0, libc::IP_PKTINFO, 1),
    (0, libc::IP_RECVTTL, 1),
    (0, libc::IP_MULTICAST_TTL, 4),
    (0, libc::IP_MULTICAST_LOOP, 0),
    (17, 103, 500),
];

fn udp_options(stage: &mut Stage) -> Result<(), String> {
    let (four, _) = udp("127.0.0.1:0")?;
    let (six, at) = udp("[::1]:0")?;
    for (level, number, value) in UDP_OPTIONS {
        set_option(&four, level, number, value)?;
    }
    let six_options = [
        (41, libc::IPV6_RECVPKTINFO, 1),
        (41, libc::IPV6_UNICAST_HOPS, 9),
    ];
    for (level, number, value) in six_options {
        set_option(&six, level, number, value)?;
    }
    let groups = [&four, &six].map(icecore::kernel::multicast::memberships);
    same(
        "groups",
        &groups.map(|g| g.map(|g| g.len()).ok()),
        &[Some(0), Some(0)],
    )?;
    let group = ["239.7.7.7", "ff05::7777"].map(|g| g.parse::<std::net::IpAddr>());
    let [Ok(four_group), Ok(six_group)] = group else {
        return Err("no addresses".to_owned());
    };
    for (socket, group) in [(&four, four_group), (&six, six_group)] {
        icecore::kernel::multicast::join(socket, 1, group).map_err(text("join"))?;
    }
    while stage.next()? {
        for (socket, group) in [(&four, four_group), (&six, six_group)] {
            let found = icecore::kernel::multicast::memberships(socket).map_err(text("groups"))?;
            let found: Vec<_> = found.iter().map(|g| (g.interface, g.group)).collect();
            same("group", &found, &vec![(1, group)])?;
        }
        for (level, number, value) in UDP_OPTIONS {
            same(
                &format!("option {level}/{number}"),
                &int(&four, level, number)?,
                &value,
            )?;
        }
        for (level, number, value) in six_options {
            same(
                &format!("option {level}/{number}"),
                &int(&six, level, number)?,
                &value,
            )?;
        }
        six.send_to(b"self", at).map_err(text("sendto"))?;
        receives(&six, b"self", at)?;
    }
    Ok(())
}

/// UDP-Lite, ping and raw sockets.
fn relatives(stage: &mut Stage) -> Result<(), String> {
    let here = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    let lite = make(AddressFamily::INET, SocketType::DGRAM, 136)?;
    bind(&lite, &here).map_err(text("bind"))?;
    let lite = UdpSocket::from(lite);
    let lite_at = lite.local_addr().map_err(text("getsockname"))?;
    set_option(&lite, 136, 10, 20)?;
    lite.send_to(b"to itself", lite_at)
        .map_err(text("sendto"))?;
    let raw = make(AddressFamily::INET, SocketType::RAW, 253)?;
    bind(&raw, &here).map_err(text("bind"))?;
    set_option(&raw, 0, libc::IP_TTL, 5)?;
    let six = make(AddressFamily::INET6, SocketType::RAW, 253)?;
    while stage.next()? {
        receives(&lite, b"to itself", lite_at)?;
        lite.send_to(b"to itself", lite_at)
            .map_err(text("sendto"))?;
        same("coverage", &int(&lite, 136, 10)?, &20)?;
        same("ttl", &int(&raw, 0, libc::IP_TTL)?, &5)?;
        let raw_at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        sendto(&raw, b"raw", rustix::net::SendFlags::empty(), &raw_at).map_err(text("sendto"))?;
        let mut room = [0; 64];
        let (n, ..) = recvfrom(&raw, &mut room[..], RecvFlags::empty()).map_err(text("recv"))?;
        same("raw", &&room[20..n], &&b"raw"[..])?;
        let name = SocketAddr::try_from(getsockname(&six).map_err(text("getsockname"))?);
        let name = name.map_err(text("address"))?;
        same("raw of IPv6", &name.port(), &253)?;
    }
    Ok(())
}

/// A filter that lets pass only what begins with an `a`.
fn filter(stage: &mut Stage) -> Result<(), String> {
    let (socket, at_address) = udp("127.0.0.1:0")?;
    // The header of UDP comes first.
    let mut program = [
        (0x30, 0, 0, 8),
        (0x15, 0, 1, u32::from(b'a')),
        (0x06, 0, 0, u32::MAX),
        (0x06, 0, 0, 0),
    ]
    .map(|(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k });
    socket
        .send_to(b"before", at_address)
        .map_err(text("sendto"))?;
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket) as u64;
    let (option, len) = (libc::SO_ATTACH_FILTER as u64, size_of_val(&program) as u64);
    let args = [fd, SOL as u64, option, at(&program), len];
    call("SO_ATTACH_FILTER", libc::SYS_setsockopt, &args)?;
    set_option(&socket, SOL, libc::SO_LOCK_FILTER, 1)?;
    let mut first = true;
    while stage.next()? {
        if std::mem::take(&mut first) {
            receives(&socket, b"before", at_address)?;
        }
        for word in ["other", "again"] {
            socket
                .send_to(word.as_bytes(), at_address)
                .map_err(text("sendto"))?;
        }
        receives(&socket, b"again", at_address)?;
        nothing(&socket)?;
        same("locked", &int(&socket, SOL, libc::SO_LOCK_FILTER)?, &1)?;
    }
    Ok(())
}

fn backlog(stage: &mut Stage) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(text("bind"))?;
    let address = listener.local_addr().map_err(text("getsockname"))?;
    // Another's, so that only the backlog is in the way.
    let mut client = std::process::Command::new("/usr/bin/python3");
    client.args(["-c", "import socket,sys,time\ns=socket.create_connection(('127.0.0.1',int(sys.argv[1])))\nprint(flush=True)\ntime.sleep(60)"]);
    let mut client = client
        .arg(address.port().to_string())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .map_err(text("start python3"))?;
    let mut output = client.stdout.take().ok_or("no output")?;
    output.read_exact(&mut [0]).map_err(text("read"))?;
    drop(output);
    let played = (|| {
        while stage.next()? {}
        listener.accept().map(drop).map_err(text("accept"))
    })();
    client
        .kill()
        .and_then(|()| client.wait())
        .map_err(text("kill"))?;
    played
}

/// Nobody was there to receive what it sent.
fn error(stage: &mut Stage) -> Result<(), String> {
    let (socket, _) = udp("127.0.0.1:0")?;
    let (gone, gone_at) = udp("127.0.0.1:0")?;
    drop(gone);
    socket.connect(gone_at).map_err(text("connect"))?;
    socket.send(b"anybody?").map_err(text("send"))?;
    while stage.next()? {}
    let told = socket.send(b"anybody?").map(drop).map_err(|e| e.kind());
    same("error", &told, &Err(std::io::ErrorKind::ConnectionRefused))
}
