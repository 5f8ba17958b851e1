//! Connections of TCP.

use serde::{Deserialize, Serialize};

use crate::bytes::ByteString;
use crate::ids::DescriptionId;
use crate::inet::InetAddress;

/// A connection, from its handshake to the last acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpConnection {
    /// The address of its other end.
    pub peer: InetAddress,
    /// Its other end, where that is in the image.
    pub other: Option<DescriptionId>,
    /// The nftables table that keeps its packets away since the dump; empty:
    /// none.
    pub lock: ByteString,
    /// What was sent and not acknowledged, and what was not sent yet.
    pub sending: TcpQueue,
    /// What was received and not read.
    pub receiving: TcpQueue,
    /// RCV_SHUTDOWN (1), SEND_SHUTDOWN (2): by either end.
    pub shutdown: u8,
    /// The other end has said that it sends no more.
    pub other_is_done: bool,
    /// What the handshake agreed upon.
    pub agreed: TcpAgreement,
    /// `struct tcp_repair_window`.
    pub window: TcpWindow,
}

/// One direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpQueue {
    /// Sequence number of its first byte.
    pub sequence: u32,
    /// Its bytes.
    pub data: ByteString,
}

/// What the handshake agreed upon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpAgreement {
    /// Largest segment, bytes.
    pub segment: u16,
    /// By how many bits the windows of either direction are shifted (sending,
    /// receiving); none: windows are not scaled.
    pub scale: Option<(u8, u8)>,
    /// Selective acknowledgement.
    pub selective: bool,
    /// Time stamps; the one of the moment of the dump.
    pub timestamp: Option<u32>,
}

/// `struct tcp_repair_window`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpWindow {
    /// Sequence number of the last window update.
    pub update: u32,
    /// What the other end takes, bytes.
    pub sending: u32,
    /// The largest it ever took, bytes.
    pub largest: u32,
    /// What this end takes, bytes.
    pub receiving: u32,
    /// Sequence number as of which that was said.
    pub said: u32,
}
