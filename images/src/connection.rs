//! Connections whose other end lies outside the dump.

use serde::{Deserialize, Serialize};

use crate::bytes::ByteString;
use crate::ids::PipeId;
use crate::unix::{UnixSocketKind, UnixSocketState};

/// An end of a connection to somebody outside the dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionState {
    /// What a restore does with it, unless told otherwise.
    pub policy: ConnectionPolicy,
    /// Whether a keeper was given its open file description at the dump.
    pub kept: bool,
    /// What it is.
    pub end: ConnectionEnd,
}

/// What becomes of a connection to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConnectionPolicy {
    /// The very same, taken back from the keeper.
    Keep,
    /// A fresh one to the same address.
    Reconnect,
    /// One whose other end is closed.
    Close,
    /// The first of these that can be had.
    Auto,
}

/// The end of a connection that is in the dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // an image has few of them
pub enum ConnectionEnd {
    /// An AF_UNIX socket.
    Unix(UnixConnection),
    /// A pipe or FIFO. Its queue is what was in it at the dump.
    Pipe(PipeId),
}

/// An AF_UNIX socket connected to one outside the dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixConnection {
    /// Inode number at the dump, as `socket:[N]` shows it.
    pub inode: u64,
    /// What it keeps together.
    pub kind: UnixSocketKind,
    /// The address the other end is bound to: a path, or an abstract name
    /// after a NUL; empty: none.
    pub peer: ByteString,
    /// What it would be had the other end been closed at the dump; none: that
    /// could not be read.
    pub closed: Option<UnixSocketState>,
}
