//! AF_UNIX sockets.

use serde::{Deserialize, Serialize};

use crate::bytes::ByteString;
use crate::ids::DescriptionId;

/// An end of a socketpair(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixSocketState {
    /// Inode number at the dump, as `socket:[N]` shows it.
    pub inode: u64,
    /// What it keeps together.
    pub kind: UnixSocketKind,
    /// The other end; none: it was closed.
    pub peer: Option<DescriptionId>,
    /// RCV_SHUTDOWN (1), SEND_SHUTDOWN (2).
    pub shutdown: u8,
    /// What it has received and not read: of a stream at most one piece, else
    /// records.
    pub queue: Vec<ByteString>,
    /// SO_SNDBUF as getsockopt shows it, bytes.
    pub send_buffer: u32,
    /// SO_RCVBUF as getsockopt shows it, bytes.
    pub receive_buffer: u32,
    /// SO_SNDTIMEO, microseconds; 0: none.
    pub send_timeout_us: u64,
    /// SO_RCVTIMEO, microseconds; 0: none.
    pub receive_timeout_us: u64,
    /// Owner as fstat shows it.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
}

/// SOCK_*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnixSocketKind {
    /// SOCK_STREAM.
    Stream,
    /// SOCK_DGRAM.
    Datagram,
    /// SOCK_SEQPACKET.
    SeqPacket,
}
