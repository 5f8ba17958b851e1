//! AF_UNIX sockets.

use super::files::file_type;
use super::numbers::{count, owners, path, refers, within};
use super::problem::{Found, Problem};
use crate::bytes::ByteString;
use crate::checkpoint::Checkpoint;
use crate::files::FileKind;
use crate::ids::DescriptionId;
use crate::unix::{
    UnixCredentials, UnixName, UnixPeer, UnixRecord, UnixSocketKind, UnixSocketState,
};

const SOCKET: u32 = 0o140_000;
/// Bytes of `sun_path`.
const LONGEST_NAME: usize = 108;
/// SCM_MAX_FD.
const MOST_RIGHTS: usize = 253;
/// NGROUPS_MAX.
const MOST_GROUPS: usize = 65536;

/// A socket, and whether those it refers to agree.
pub(super) fn socket(image: &Checkpoint, own: DescriptionId, s: &UnixSocketState) -> Found {
    within("what was shut down", s.shutdown, 0..=3)?;
    owners(&[s.uid, s.gid])?;
    let most = i32::MAX as u32;
    within("send buffer", s.send_buffer, 0..=most)?;
    within("receive buffer", s.receive_buffer, 0..=most)?;
    let longest = i64::MAX as u64 / 1000;
    within("time-out of sending", s.send_timeout_us, 0..=longest)?;
    within("time-out of receiving", s.receive_timeout_us, 0..=longest)?;
    if let Some(name) = &s.name {
        self::name(name)?;
    }
    s.peer_credentials.iter().try_for_each(credentials)?;
    s.queue
        .iter()
        .try_for_each(|record| self::record(image, s.kind, record))?;
    urgent(s)?;
    peer(image, own, s)
}

fn name(name: &UnixName) -> Found {
    bytes_of_name(&name.name)?;
    let is_path = name.name.0[0] != 0;
    let Some(file) = &name.file else {
        return Ok(());
    };
    if !is_path {
        return Err(Problem::Contradiction("an abstract socket with a file"));
    }
    path("a socket's file", &file.path)?;
    owners(&[file.uid, file.gid])?;
    file_type("a socket's file", file.mode, &[SOCKET])?;
    match file.base(&name.name) {
        Some(_) => Ok(()),
        None => Err(Problem::Contradiction(
            "a socket's name does not lead to its file",
        )),
    }
}

fn bytes_of_name(name: &ByteString) -> Found {
    count("bytes of a socket's name", name.0.len(), 1..=LONGEST_NAME)?;
    match name.0[0] != 0 && name.0.contains(&0) {
        true => Err(Problem::Contradiction("a NUL in the path of a socket")),
        false => Ok(()),
    }
}

fn credentials(of: &UnixCredentials) -> Found {
    within("pid of a peer", of.pid, 0..=super::MAX_PID)?;
    count("groups of a peer", of.groups.len(), 0..=MOST_GROUPS)
}

fn record(image: &Checkpoint, kind: UnixSocketKind, record: &UnixRecord) -> Found {
    if kind == UnixSocketKind::Stream && record.bytes.0.is_empty() {
        let empty = "an empty piece of a stream is queued";
        return Err(Problem::Contradiction(empty));
    }
    count(
        "descriptors of a record",
        record.rights.len(),
        0..=MOST_RIGHTS,
    )?;
    for right in &record.rights {
        refers("open file description", right.0, image.files.len())?;
    }
    if let Some(sender) = &record.sender {
        bytes_of_name(sender)?;
    }
    record.credentials.iter().try_for_each(credentials)
}

fn urgent(s: &UnixSocketState) -> Found {
    let Some(at) = s.urgent else {
        return Ok(());
    };
    let queued: usize = s.queue.iter().map(|r| r.bytes.0.len()).sum();
    match s.kind {
        UnixSocketKind::Stream if at < queued as u64 => Ok(()),
        _ => Err(Problem::Contradiction("an out-of-band byte of no stream")),
    }
}

fn peer(image: &Checkpoint, own: DescriptionId, s: &UnixSocketState) -> Found {
    let connection = s.kind != UnixSocketKind::Datagram;
    match &s.peer {
        UnixPeer::None => Ok(()),
        UnixPeer::Listening { waiting, .. } => {
            for &client in waiting {
                match &other(image, client)?.peer {
                    UnixPeer::Waiting(listener) if *listener == own => {}
                    _ => return Err(Problem::Contradiction("who waits for it does not")),
                }
            }
            accepts(connection && s.name.is_some())
        }
        UnixPeer::Waiting(listener) => {
            let waits = match &other(image, *listener)?.peer {
                UnixPeer::Listening { waiting, .. } => waiting.contains(&own),
                _ => false,
            };
            accepts(waits && connection && s.queue.is_empty())
        }
        UnixPeer::Closed { .. } if connection && s.shutdown != 3 => Err(Problem::Contradiction(
            "its other end is closed, but it was not shut down",
        )),
        UnixPeer::Closed { name: None } => Ok(()),
        UnixPeer::Closed { name: Some(name) } => bytes_of_name(name),
        UnixPeer::Open(peer) => other_end(image, own, s, *peer),
    }
}

fn accepts(agreed: bool) -> Found {
    match agreed {
        true => Ok(()),
        false => Err(Problem::Contradiction("a listener and its client disagree")),
    }
}

fn other(image: &Checkpoint, id: DescriptionId) -> Result<&UnixSocketState, Problem> {
    refers("open file description", id.0, image.files.len())?;
    match image.files.get(id.0 as usize).map(|f| &f.kind) {
        Some(FileKind::Unix(other)) => Ok(other),
        _ => Err(Problem::Contradiction("its other end is no socket")),
    }
}

fn other_end(
    image: &Checkpoint,
    own: DescriptionId,
    s: &UnixSocketState,
    peer: DescriptionId,
) -> Found {
    let other = other(image, peer)?;
    let mutual = other.peer == UnixPeer::Open(own) && peer != own;
    let connection = s.kind != UnixSocketKind::Datagram;
    let reachable = mutual || other.name.is_some();
    if other.kind != s.kind || connection && !mutual || !reachable {
        return Err(Problem::Contradiction("its other end is not its own"));
    }
    // Of a connection both ends are shut down at once.
    let mirrored = (s.shutdown & 1) << 1 | s.shutdown >> 1;
    match !connection || other.shutdown == mirrored {
        true => Ok(()),
        false => Err(Problem::Contradiction(
            "its two ends disagree about what was shut down",
        )),
    }
}
