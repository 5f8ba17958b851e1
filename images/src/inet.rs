//! Sockets of the internet families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use serde::{Deserialize, Serialize};

use crate::bytes::ByteString;
use crate::socket::SocketState;
use crate::tcp::TcpConnection;

/// A socket of AF_INET or AF_INET6.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InetSocketState {
    /// What every socket has.
    pub socket: SocketState,
    /// AF_INET6 instead of AF_INET.
    pub v6: bool,
    /// What it speaks.
    pub protocol: InetProtocol,
    /// The address it is bound to; none: it is not.
    pub local: Option<InetAddress>,
    /// What it is doing.
    pub role: InetRole,
}

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum InetProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// UDP-Lite.
    UdpLite,
    /// Echo requests of ICMP or ICMPv6 (SOCK_DGRAM).
    Ping,
    /// SOCK_RAW, with this protocol number.
    Raw(u8),
}

/// What a socket is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum InetRole {
    /// TCP: neither listening nor connected.
    Idle,
    /// TCP: listening, for so many connections.
    Listening {
        /// What listen(2) was told, as far as the kernel kept it.
        backlog: u32,
    },
    /// Keeps datagrams apart.
    Datagrams(Datagrams),
    /// TCP: connected.
    Connection(Box<TcpConnection>),
    /// TCP: a connection that has ended, with what was received and not read.
    Ended {
        /// What can still be read.
        queue: ByteString,
    },
}

/// A socket that keeps datagrams apart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagrams {
    /// The address it is connected to.
    pub peer: Option<InetAddress>,
    /// RCV_SHUTDOWN (1), SEND_SHUTDOWN (2).
    pub shutdown: u8,
    /// What it has received and not read.
    pub queue: Vec<Datagram>,
    /// Multicast groups it has joined.
    pub groups: Vec<MulticastGroup>,
}

/// A multicast group on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MulticastGroup {
    /// Name of the interface.
    pub interface: ByteString,
    /// The group, with port 0.
    pub group: InetAddress,
}

/// A datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagram {
    /// Who sent it.
    pub from: InetAddress,
    /// What is in it.
    pub data: ByteString,
}

/// An address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum InetAddress {
    /// IPv4.
    V4 {
        /// Address.
        ip: [u8; 4],
        /// Port.
        port: u16,
    },
    /// IPv6.
    V6 {
        /// Address.
        ip: [u8; 16],
        /// Port.
        port: u16,
        /// Flow information, as sockaddr_in6 has it.
        flow: u32,
        /// Index of the interface of a link-local address.
        scope: u32,
    },
}

impl From<SocketAddr> for InetAddress {
    fn from(address: SocketAddr) -> Self {
        let port = address.port();
        match address {
            SocketAddr::V4(v4) => InetAddress::V4 {
                ip: v4.ip().octets(),
                port,
            },
            SocketAddr::V6(v6) => InetAddress::V6 {
                ip: v6.ip().octets(),
                port,
                flow: v6.flowinfo(),
                scope: v6.scope_id(),
            },
        }
    }
}

impl From<InetAddress> for SocketAddr {
    fn from(address: InetAddress) -> Self {
        match address {
            InetAddress::V4 { ip, port } => SocketAddrV4::new(Ipv4Addr::from(ip), port).into(),
            InetAddress::V6 {
                ip,
                port,
                flow,
                scope,
            } => SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope).into(),
        }
    }
}

impl InetAddress {
    /// The address without the port, an IPv4 one in the dress of IPv6 as the
    /// former.
    pub fn ip(self) -> IpAddr {
        SocketAddr::from(self).ip().to_canonical()
    }

    /// The port.
    pub fn port(self) -> u16 {
        SocketAddr::from(self).port()
    }
}

impl std::fmt::Display for InetAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        SocketAddr::from(*self).fmt(f)
    }
}

impl InetProtocol {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            InetProtocol::Tcp => "TCP",
            InetProtocol::Udp => "UDP",
            InetProtocol::UdpLite => "UDP-Lite",
            InetProtocol::Ping => "ping",
            InetProtocol::Raw(_) => "raw",
        }
    }
}
