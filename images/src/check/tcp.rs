//! Connections of TCP.

use super::numbers::{count, refers, within};
use super::problem::{Found, Problem};
use crate::checkpoint::Checkpoint;
use crate::files::FileKind;
use crate::ids::DescriptionId;
use crate::inet::{InetRole, InetSocketState};
use crate::tcp::TcpConnection;

/// No queue of the kernel's is longer.
const LONGEST_QUEUE: usize = i32::MAX as usize;

/// A connection.
pub(super) fn connection(
    image: &Checkpoint,
    own: DescriptionId,
    s: &InetSocketState,
    c: &TcpConnection,
) -> Found {
    within("what was shut down", c.shutdown, 0..=3)?;
    for queue in [&c.sending, &c.receiving] {
        count("queued bytes", queue.data.0.len(), 0..=LONGEST_QUEUE)?;
    }
    if let Some((sending, receiving)) = c.agreed.scale {
        within("scale of the window", sending, 0..=14)?;
        within("scale of the window", receiving, 0..=14)?;
    }
    lock(c)?;
    if s.local.is_none() {
        return Err(Problem::Contradiction("a connection has no address"));
    }
    c.other.map_or(Ok(()), |other| other_end(image, own, other))
}

/// Restoring removes the table with this name.
fn lock(c: &TcpConnection) -> Found {
    let name = &c.lock.0;
    let ours = name.starts_with(b"icecore-") && name.len() < 128;
    let plain = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-';
    match name.is_empty() || ours && name.iter().all(plain) {
        true => Ok(()),
        false => Err(Problem::Contradiction(
            "a connection is locked by a table that is none of icecore's",
        )),
    }
}

fn other_end(image: &Checkpoint, own: DescriptionId, other: DescriptionId) -> Found {
    refers("open file description", other.0, image.files.len())?;
    let end = match image.files.get(other.0 as usize).map(|f| &f.kind) {
        Some(FileKind::Inet(end)) => match &end.role {
            InetRole::Connection(end) => end.other,
            _ => None,
        },
        _ => None,
    };
    match end == Some(own) {
        true => Ok(()),
        false => Err(Problem::Contradiction("its other end is not its own")),
    }
}
