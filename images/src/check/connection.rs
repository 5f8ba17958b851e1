//! Connections to the outside.

use super::numbers::{count, refers};
use super::problem::{Found, Problem};
use super::unix;
use crate::checkpoint::Checkpoint;
use crate::connection::{ConnectionEnd, ConnectionPolicy, ConnectionState};
use crate::ids::DescriptionId;
use crate::unix::UnixPeer;

/// Bytes of `sun_path`.
const LONGEST_NAME: usize = 108;

pub(super) fn connection(image: &Checkpoint, own: DescriptionId, c: &ConnectionState) -> Found {
    let may_be_kept = matches!(c.policy, ConnectionPolicy::Keep | ConnectionPolicy::Auto);
    if c.kept && !may_be_kept {
        return Err(Problem::Contradiction(
            "a connection that is not to be kept is said to be kept",
        ));
    }
    match &c.end {
        ConnectionEnd::Unix(end) => {
            count("bytes of address", end.peer.0.len(), 0..=LONGEST_NAME)?;
            match &end.closed {
                Some(closed) if !matches!(closed.peer, UnixPeer::Closed { .. }) => Err(
                    Problem::Contradiction("a connection whose other end is closed has one"),
                ),
                Some(closed) if closed.kind != end.kind => Err(Problem::Contradiction(
                    "a connection would change its type when it is closed",
                )),
                Some(closed) => unix::socket(image, own, closed),
                None => Ok(()),
            }
        }
        ConnectionEnd::Pipe(pipe) => refers("pipe", pipe.0, image.pipes.len()),
    }
}
