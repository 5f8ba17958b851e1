//! Connections to the outside.

use super::numbers::{count, refers};
use super::problem::{Found, Problem};
use super::{inet, unix};
use crate::checkpoint::Checkpoint;
use crate::connection::{
    ConnectionEnd, ConnectionPolicy, ConnectionState, TcpOutside, TtyConnection,
};
use crate::ids::DescriptionId;
use crate::inet::InetAddress;
use crate::unix::UnixPeer;

/// Bytes of `struct termios2`.
const TERMIOS2: usize = 44;
/// More than any socket receives.
const LARGEST_QUEUE: usize = 1 << 31;
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
        ConnectionEnd::Tcp(end) => tcp(end),
        ConnectionEnd::Tty(end) => tty(image, end),
        ConnectionEnd::File(_) => Err(Problem::Contradiction(
            "a file is replaced by one that only a restore can be given",
        )),
    }
}

fn tcp(end: &TcpOutside) -> Found {
    inet::socket(&end.socket)?;
    for address in [end.local, end.peer] {
        if matches!(address, InetAddress::V6 { .. }) != end.v6 {
            return Err(Problem::Contradiction(
                "a connection has an address of another family",
            ));
        }
    }
    count("queued bytes", end.queue.0.len(), 0..=LARGEST_QUEUE)
}

fn tty(image: &Checkpoint, end: &TtyConnection) -> Found {
    let sizes = [0, TERMIOS2];
    if !sizes.contains(&end.termios.0.len()) {
        return Err(Problem::Contradiction(
            "the settings of a terminal have another size",
        ));
    }
    let inside = |id: u32| image.tasks.iter().any(|t| t.pid == id || t.pgid == id);
    for id in [end.leader, end.foreground].into_iter().flatten() {
        if !inside(id) {
            return Err(Problem::Dangling { what: "task", id });
        }
    }
    Ok(())
}
