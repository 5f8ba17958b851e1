//! AF_UNIX sockets.

use serde::{Deserialize, Serialize};

use crate::bytes::ByteString;
use crate::ids::DescriptionId;

/// An AF_UNIX socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixSocketState {
    /// Inode number at the dump, as `socket:[N]` shows it.
    pub inode: u64,
    /// What it keeps together.
    pub kind: UnixSocketKind,
    /// What getsockname(2) tells; none: it is not bound.
    pub name: Option<UnixName>,
    /// What it is connected to.
    pub peer: UnixPeer,
    /// SO_PEERCRED; none: the socket has no such thing.
    pub peer_credentials: Option<UnixCredentials>,
    /// RCV_SHUTDOWN (1), SEND_SHUTDOWN (2).
    pub shutdown: u8,
    /// ECONNRESET is pending: its other end was closed with data unread.
    pub reset: bool,
    /// What it has received and not read. Of a stream: pieces that reading
    /// tells apart; else records.
    pub queue: Vec<UnixRecord>,
    /// Where in its stream the out-of-band byte is.
    pub urgent: Option<u64>,
    /// Options of SOL_SOCKET that are not as a new socket has them: name, value.
    pub options: Vec<(i32, i32)>,
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

/// What a socket is bound to, or, if it was accepted, its listener was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixName {
    /// As bind(2) got it, without a NUL at its end; an abstract name begins
    /// with a NUL.
    pub name: ByteString,
    /// The socket's file, if it is a path that still leads to it.
    pub file: Option<UnixFile>,
}

/// The file of a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixFile {
    /// Where it is, from the root.
    pub path: ByteString,
    /// Its permissions.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
}

/// What a socket is connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnixPeer {
    /// Nothing.
    None,
    /// It takes connections.
    Listening {
        /// What listen(2) was told.
        backlog: u32,
        /// Connections that it has not accepted, the oldest first.
        waiting: Vec<DescriptionId>,
    },
    /// This one. Of a stream and a sequence of packets it is connected to it,
    /// too.
    Open(DescriptionId),
    /// One that was closed.
    Closed {
        /// What it was bound to.
        name: Option<ByteString>,
    },
    /// One that this listener has not accepted yet.
    Waiting(DescriptionId),
}

/// A piece of a stream, or a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixRecord {
    /// Its data.
    pub bytes: ByteString,
    /// Descriptors that came with it (SCM_RIGHTS).
    pub rights: Vec<DescriptionId>,
    /// Credentials that came with it (SCM_CREDENTIALS), without groups.
    pub credentials: Option<UnixCredentials>,
    /// The name of the socket it was sent from.
    pub sender: Option<ByteString>,
}

/// Who somebody was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixCredentials {
    /// Process.
    pub pid: u32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// SO_PEERGROUPS: supplementary groups.
    pub groups: Vec<u32>,
}

/// Where a path is to be bound so that it leads to a socket's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindBase<'a> {
    /// The root directory; empty: the root of all.
    pub root: &'a [u8],
    /// The working directory, for a relative path; empty: the root of all.
    pub cwd: &'a [u8],
}

impl UnixFile {
    /// Where `name` is to be bound; `None`: it could not have led here.
    pub fn base(&self, name: &ByteString) -> Option<BindBase<'_>> {
        let (name, path) = (&name.0[..], &self.path.0[..]);
        if name.first() == Some(&b'/') {
            // A path that differs went through a symbolic link.
            let root = path.strip_suffix(name).unwrap_or_default();
            return Some(BindBase { root, cwd: b"" });
        }
        let name = name.strip_prefix(b"./").unwrap_or(name);
        let cwd = path.strip_suffix(name)?.strip_suffix(b"/")?;
        Some(BindBase { root: b"", cwd })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_path_was_bound() {
        let file = |path: &str| UnixFile {
            path: ByteString::from(path.as_bytes()),
            mode: 0,
            uid: 0,
            gid: 0,
        };
        let base = |name: &str, path: &str| {
            let file = file(path);
            let base = file.base(&ByteString::from(name.as_bytes()));
            base.map(|b| (b.root.to_vec(), b.cwd.to_vec()))
        };
        let found = |root: &str, cwd: &str| Some((root.into(), cwd.into()));
        assert_eq!(base("/run/s", "/run/s"), found("", ""));
        assert_eq!(base("/run/s", "/jail/run/s"), found("/jail", ""));
        assert_eq!(base("/var/run/s", "/run/s"), found("", ""));
        assert_eq!(base("d/s", "/run/d/s"), found("", "/run"));
        assert_eq!(base("./s", "/s"), found("", ""));
        assert_eq!(base("../s", "/run/s"), None);
        assert_eq!(base("s", "/runs"), None);
    }
}
