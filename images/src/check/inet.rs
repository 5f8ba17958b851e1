//! Sockets of every family, and those of the internet families.

use super::numbers::{count, owners, text, within};
use super::problem::{Found, Problem};
use super::tcp;
use crate::checkpoint::Checkpoint;
use crate::ids::DescriptionId;
use crate::inet::{Datagrams, InetAddress, InetProtocol, InetRole, InetSocketState};
use crate::socket::SocketState;

/// Longest value of an option, bytes.
const LONGEST_OPTION: usize = 256;
/// BPF_MAXINSNS.
const LONGEST_FILTER: usize = 4096;
/// Longest datagram, bytes.
const LONGEST_DATAGRAM: usize = 65_535;

/// What every socket has.
pub(super) fn socket(s: &SocketState) -> Found {
    owners(&[s.uid, s.gid])?;
    count("socket options", s.options.len(), 0..=1024)?;
    for option in &s.options {
        let len = option.value.0.len();
        count("bytes of a socket option", len, 0..=LONGEST_OPTION)?;
    }
    count("instructions", s.filter.len(), 0..=LONGEST_FILTER)
}

/// One of AF_INET or AF_INET6.
pub(super) fn inet(image: &Checkpoint, own: DescriptionId, s: &InetSocketState) -> Found {
    socket(&s.socket)?;
    if let Some(local) = s.local {
        family(s, local)?;
    }
    let speaks_tcp = s.protocol == InetProtocol::Tcp;
    match &s.role {
        InetRole::Idle if speaks_tcp => Ok(()),
        InetRole::Listening { backlog } if speaks_tcp => {
            within("backlog", *backlog, 0..=i32::MAX as u32)?;
            match s.local {
                Some(_) => Ok(()),
                None => Err(Problem::Contradiction("it listens without an address")),
            }
        }
        InetRole::Connection(c) if speaks_tcp => {
            family(s, c.peer)?;
            tcp::connection(image, own, s, c)
        }
        InetRole::Ended { queue } if speaks_tcp => {
            count("queued bytes", queue.0.len(), 0..=i32::MAX as usize)
        }
        InetRole::Datagrams(d) if !speaks_tcp => datagrams(s, d),
        _ => Err(Problem::Contradiction(
            "a socket does what its protocol does not know",
        )),
    }
}

fn datagrams(s: &InetSocketState, d: &Datagrams) -> Found {
    within("what was shut down", d.shutdown, 0..=3)?;
    if let Some(peer) = d.peer {
        family(s, peer)?;
    }
    if !d.queue.is_empty() && s.local.is_none() {
        return Err(Problem::Contradiction(
            "a socket without an address has received something",
        ));
    }
    for group in &d.groups {
        text("interface", &group.interface, 15)?;
    }
    for datagram in &d.queue {
        family(s, datagram.from)?;
        let len = datagram.data.0.len();
        count("bytes of a datagram", len, 0..=LONGEST_DATAGRAM)?;
    }
    Ok(())
}

fn family(s: &InetSocketState, address: InetAddress) -> Found {
    match s.v6 == matches!(address, InetAddress::V6 { .. }) {
        true => Ok(()),
        false => Err(Problem::Contradiction(
            "a socket has an address of another family",
        )),
    }
}
