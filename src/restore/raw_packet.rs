//! Packets with any sender, for what a socket had received before it slept:
//! they never leave this machine.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::net::{AddressFamily, Protocol, SendFlags, SocketFlags, SocketType, sendto};

const HOPS: u8 = 64;

/// A datagram of UDP (17) or UDP-Lite (136) to an address of this machine.
pub(super) fn datagram(
    protocol: u8,
    from: SocketAddr,
    to: SocketAddr,
    data: &[u8],
) -> io::Result<()> {
    const UDP: u8 = 17;
    let len = u16::try_from(data.len() + 8).map_err(|_| io::ErrorKind::InvalidInput)?;
    // UDP-Lite says here how much the checksum covers: 0 is all.
    let covered = if protocol == UDP { len } else { 0 };
    let mut body = Vec::with_capacity(usize::from(len));
    for word in [from.port(), to.port(), covered, 0] {
        body.extend(word.to_be_bytes());
    }
    body.extend(data);
    let (from, to) = (from.ip().to_canonical(), to.ip().to_canonical());
    let sum = checksum(from, to, protocol, &body);
    body[6..8].copy_from_slice(&sum.to_be_bytes());
    send(protocol, from, to, &body)
}

/// The end of a TCP stream: a segment without data that says that no more
/// comes. `sequence` is the stream's next number, `acknowledged` the other's.
pub(super) fn end_of_stream(
    from: SocketAddr,
    to: SocketAddr,
    sequence: u32,
    acknowledged: u32,
) -> io::Result<()> {
    const TCP: u8 = 6;
    const WORDS: u8 = 5;
    const FIN_ACK: u8 = 0x11;
    const WINDOW: u16 = 1;
    let mut body = Vec::new();
    body.extend(from.port().to_be_bytes());
    body.extend(to.port().to_be_bytes());
    body.extend(sequence.to_be_bytes());
    body.extend(acknowledged.to_be_bytes());
    body.extend([WORDS << 4, FIN_ACK]);
    body.extend(WINDOW.to_be_bytes());
    body.extend([0; 4]);
    let (from, to) = (from.ip().to_canonical(), to.ip().to_canonical());
    let sum = checksum(from, to, TCP, &body);
    body[16..18].copy_from_slice(&sum.to_be_bytes());
    send(TCP, from, to, &body)
}

/// Sends a packet of `protocol` with `body`, checksum included.
pub(super) fn send(protocol: u8, from: IpAddr, to: IpAddr, body: &[u8]) -> io::Result<()> {
    let (family, header) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (AddressFamily::INET, v4(protocol, from, to)),
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let len = u16::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            (AddressFamily::INET6, v6(protocol, from, to, len))
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let raw = rustix::net::ipproto::RAW;
    let socket = socket(family, raw)?;
    let packet = [header.as_slice(), body].concat();
    let sent = sendto(
        &socket,
        &packet,
        SendFlags::empty(),
        &SocketAddr::new(to, 0),
    )?;
    match sent == packet.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

fn socket(family: AddressFamily, protocol: Protocol) -> io::Result<std::os::fd::OwnedFd> {
    let kind = SocketType::RAW;
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol));
    Ok(socket?)
}

/// Length, identification and checksum are filled in by the kernel.
fn v4(protocol: u8, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, HOPS, protocol, 0, 0];
    header.extend(from.octets());
    header.extend(to.octets());
    header
}

fn v6(protocol: u8, from: Ipv6Addr, to: Ipv6Addr, len: u16) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(len.to_be_bytes());
    header.extend([protocol, HOPS]);
    header.extend(from.octets());
    header.extend(to.octets());
    header
}

/// The checksum of UDP and TCP, over the addresses and `body`, in which its own
/// place is 0.
pub(super) fn checksum(from: IpAddr, to: IpAddr, protocol: u8, body: &[u8]) -> u16 {
    let mut sum = 0_u64;
    let mut add = |bytes: &[u8]| {
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([pair[0], low]));
        }
    };
    for ip in [from, to] {
        match ip {
            IpAddr::V4(ip) => add(&ip.octets()),
            IpAddr::V6(ip) => add(&ip.octets()),
        }
    }
    add(&(body.len() as u32).to_be_bytes());
    add(&[0, protocol]);
    add(body);
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // 0 would mean that there is none.
    match !(sum as u16) {
        0 => u16::MAX,
        sum => sum,
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_datagram_arrives_from_whom_it_says() {
        let senders = [
            ("127.0.0.1:0", "127.0.0.9:9"),
            ("127.0.0.1:0", "192.0.2.1:65535"),
            ("[::1]:0", "[::1]:7"),
            ("[::1]:0", "[2001:db8::1]:7"),
        ];
        for (to, from) in senders {
            let socket = UdpSocket::bind(to).unwrap();
            let limit = Some(Duration::from_secs(10));
            socket.set_read_timeout(limit).unwrap();
            let (to, from) = (socket.local_addr().unwrap(), from.parse().unwrap());
            for data in [&b"odd"[..], b"", &[0xff; 60_000]] {
                datagram(17, from, to, data).unwrap();
                let mut room = vec![0; 65_536];
                let (n, sender) = socket.recv_from(&mut room).unwrap();
                assert_eq!((&room[..n] == data, sender), (true, from));
            }
        }
    }
}
