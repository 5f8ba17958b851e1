//! What sockets of every family have.

use serde::{Deserialize, Serialize};

use crate::bytes::ByteString;

/// What belongs to any socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketState {
    /// Inode number at the dump, as `socket:[N]` shows it.
    pub inode: u64,
    /// Owner as fstat shows it.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// Its options as getsockopt showed them, in the order in which they are
    /// to be set.
    pub options: Vec<SocketOption>,
    /// The classic filter attached to it, as `struct sock_filter` records:
    /// code, jt, jf, k; empty: none.
    pub filter: Vec<(u16, u8, u8, u32)>,
}

/// An option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketOption {
    /// SOL_SOCKET, IPPROTO_IP ….
    pub level: i32,
    /// Its number.
    pub number: i32,
    /// What getsockopt showed.
    pub value: ByteString,
}
