//! AF_UNIX sockets.

use super::numbers::{count, owners, refers, within};
use super::problem::{Found, Problem};
use crate::checkpoint::Checkpoint;
use crate::files::FileKind;
use crate::ids::DescriptionId;
use crate::unix::{UnixSocketKind, UnixSocketState};

/// An end, and whether the other end agrees.
pub(super) fn socket(image: &Checkpoint, own: DescriptionId, s: &UnixSocketState) -> Found {
    within("what was shut down", s.shutdown, 0..=3)?;
    owners(&[s.uid, s.gid])?;
    let most = i32::MAX as u32;
    within("send buffer", s.send_buffer, 0..=most)?;
    within("receive buffer", s.receive_buffer, 0..=most)?;
    let longest = i64::MAX as u64 / 1000;
    within("time-out of sending", s.send_timeout_us, 0..=longest)?;
    within("time-out of receiving", s.receive_timeout_us, 0..=longest)?;
    // What can be read without taking it out.
    count("queued records", s.queue.len(), 0..=1)?;
    if s.kind == UnixSocketKind::Stream && s.queue.iter().any(|part| part.0.is_empty()) {
        return Err(Problem::Contradiction(
            "an empty piece of a stream is queued",
        ));
    }
    match s.peer {
        Some(peer) => other_end(image, own, s, peer),
        None if s.kind != UnixSocketKind::Datagram && s.shutdown != 3 => Err(
            Problem::Contradiction("its other end is closed, but it was not shut down"),
        ),
        None => Ok(()),
    }
}

fn other_end(
    image: &Checkpoint,
    own: DescriptionId,
    s: &UnixSocketState,
    peer: DescriptionId,
) -> Found {
    refers("open file description", peer.0, image.files.len())?;
    let Some(FileKind::Unix(other)) = image.files.get(peer.0 as usize).map(|f| &f.kind) else {
        return Err(Problem::Contradiction("its other end is no socket"));
    };
    if peer == own || other.peer != Some(own) || other.kind != s.kind {
        return Err(Problem::Contradiction("its other end is not its own"));
    }
    // Of a connection both ends are shut down at once.
    let mirrored = (s.shutdown & 1) << 1 | s.shutdown >> 1;
    match s.kind == UnixSocketKind::Datagram || other.shutdown == mirrored {
        true => Ok(()),
        false => Err(Problem::Contradiction(
            "its two ends disagree about what was shut down",
        )),
    }
}
