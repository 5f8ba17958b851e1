//! Connections to the outside.

use super::numbers::{count, refers};
use super::problem::{Found, Problem};
use crate::checkpoint::Checkpoint;
use crate::connection::{ConnectionEnd, ConnectionPolicy, ConnectionState};

/// Bytes of `sun_path`.
const LONGEST_NAME: usize = 108;

pub(super) fn connection(image: &Checkpoint, c: &ConnectionState) -> Found {
    let may_be_kept = matches!(c.policy, ConnectionPolicy::Keep | ConnectionPolicy::Auto);
    if c.kept && !may_be_kept {
        return Err(Problem::Contradiction(
            "a connection that is not to be kept is said to be kept",
        ));
    }
    match &c.end {
        ConnectionEnd::Unix(unix) => count("bytes of address", unix.peer.0.len(), 0..=LONGEST_NAME),
        ConnectionEnd::Pipe(pipe) => refers("pipe", pipe.0, image.pipes.len()),
    }
}
