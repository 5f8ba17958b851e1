//! Connections whose other end lies outside the dump.

use serde::{Deserialize, Serialize};

use crate::bytes::ByteString;
use crate::ids::PipeId;
use crate::inet::InetAddress;
use crate::socket::SocketState;
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
    /// The terminal of whoever restores it.
    Caller,
}

/// The end of a connection that is in the dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // an image has few of them
pub enum ConnectionEnd {
    /// An AF_UNIX socket.
    Unix(UnixConnection),
    /// A pipe or FIFO. Its queue is what was in it at the dump.
    Pipe(PipeId),
    /// A TCP socket.
    Tcp(TcpOutside),
    /// A terminal.
    Tty(TtyConnection),
    /// A file in whose place a restore was given another. In no image.
    File(ByteString),
}

/// An established TCP connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpOutside {
    /// AF_INET6 instead of AF_INET.
    pub v6: bool,
    /// Its own address.
    pub local: InetAddress,
    /// The address of the other end.
    pub peer: InetAddress,
    /// What every socket has.
    pub socket: SocketState,
    /// What it had received and not read at the dump.
    pub queue: ByteString,
}

/// A terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtyConnection {
    /// Where it was, as `/proc/PID/fd` shows it.
    pub path: ByteString,
    /// Its device number.
    pub rdev: u64,
    /// The device number of the file system it was found in.
    pub dev: u64,
    /// The session leader of the dump whose controlling terminal it was.
    pub leader: Option<u32>,
    /// The process group of the dump that was in the foreground.
    pub foreground: Option<u32>,
    /// `struct termios2`; empty: it could not be read.
    pub termios: ByteString,
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
