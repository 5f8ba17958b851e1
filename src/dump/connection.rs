//! Connections whose other end lies outside the dump: what becomes of each, as
//! the rules of the dump say.
//!
//! Where one is to be kept, icecore's own duplicate of the descriptor is what
//! the keeper inherits (`keep`).

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use icecore_images::ByteString;
use icecore_images::connection::{
    ConnectionEnd, ConnectionPolicy, ConnectionState, UnixConnection,
};
use icecore_images::envelope::ImageId;
use icecore_images::files::{FileKind, OpenFile};
use icecore_images::ids::{DescriptionId, PipeId};
use icecore_images::unix::UnixSocketKind;
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::DumpContext;
use super::descriptor::Descriptor;
use super::descriptors::Collection;
use super::outside::{self, Holder};
use super::{oom, socket, tcp_outside, unix};
use crate::error::DumpError;
use crate::kernel::unix_diag;
use crate::options::After;
use crate::outside::{OutsideKind, OutsidePolicy};
use crate::tracer::keeper::{Charge, Keeper};

/// A pipe that is held outside the dump as well.
#[derive(Debug)]
pub(super) struct OutsidePipe {
    pub(super) id: PipeId,
    pub(super) policy: ConnectionPolicy,
}

/// What to say of a connection that is not carried.
pub(super) struct Said<'a> {
    pub(super) problem: &'a str,
    /// Policies that would carry it.
    pub(super) options: Options<'a>,
}

/// Which policies would carry a connection, beside keep and auto; or why not.
pub(super) struct Options<'a> {
    pub(super) reconnect: Result<(), &'a str>,
    pub(super) close: Result<(), &'a str>,
}

impl std::fmt::Display for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("keep")?;
        if self.reconnect.is_ok() {
            f.write_str("|reconnect")?;
        }
        if self.close.is_ok() {
            f.write_str("|close")?;
        }
        f.write_str("|auto")
    }
}

/// What becomes of a connection; `None`: it is a blocker now.
pub(super) fn decide(
    ctx: &mut DumpContext<'_>,
    place: &crate::blocker::Place,
    kind: OutsideKind,
    inode: u64,
    said: &Said<'_>,
) -> Option<ConnectionPolicy> {
    let options = &said.options;
    let policy = match ctx.options.outside.policy(kind, inode) {
        OutsidePolicy::Refuse => Err(said.problem.to_owned()),
        OutsidePolicy::Keep => Ok(ConnectionPolicy::Keep),
        OutsidePolicy::Auto => Ok(ConnectionPolicy::Auto),
        OutsidePolicy::Reconnect => match options.reconnect {
            Ok(()) => Ok(ConnectionPolicy::Reconnect),
            Err(problem) => Err(format!("{}; {problem}", said.problem)),
        },
        OutsidePolicy::Close => match options.close {
            Ok(()) => Ok(ConnectionPolicy::Close),
            Err(problem) => Err(format!("{}; {problem}", said.problem)),
        },
    };
    let problem = match policy {
        Ok(policy) => return Some(policy),
        Err(problem) => problem,
    };
    let help = format!("--outside {kind}={options}");
    ctx.block(place.clone(), problem, Some(&help));
    None
}

/// Whether a keeper holds what is to be kept: not where the target goes on and
/// keeps it itself, unless a keeper was asked for.
fn keeps(ctx: &DumpContext<'_>) -> bool {
    ctx.options.after == After::Kill || ctx.options.keep_for.is_some()
}

/// A socket that is not carried whole: an AF_UNIX one whose other end is
/// outside is a connection, all others are refused.
pub(super) fn socket(
    ctx: &mut DumpContext<'_>,
    all: &Collection,
    at: usize,
) -> Result<Option<FileKind>, DumpError> {
    let d = &all.descriptors[at];
    let duplicate = d.duplicate()?;
    if let Some(of_tcp) = tcp_outside::connection(d, &duplicate) {
        return tcp_outside::describe(ctx, all, at, of_tcp);
    }
    let Some(mut end) = unix_connection(ctx, all, d, &duplicate) else {
        return outside::refuse_socket(ctx, d);
    };
    let closed = match end.shared {
        true => Err("somebody outside has the socket itself".to_owned()),
        false => unix::as_if_closed(ctx, all, d, &duplicate, end.unix.kind)
            .unwrap_or_else(|e| Err(format!("its state cannot be read: {e}"))),
    };
    let said = socket::describe(
        duplicate.try_clone().map_err(|e| d.error("copy", e))?,
        d.pid,
    );
    let what = if end.shared { "it" } else { "its other end" };
    let problem = match end.holders.as_slice() {
        [] => format!("{}; {what} is out of sight", said.problem),
        some => format!(
            "{}; {what} is held by {}, outside the dump",
            said.problem,
            outside::list(some)
        ),
    };
    let read = match &closed {
        Ok(_) => Ok(()),
        Err(problem) => Err(problem.as_str()),
    };
    let said = Said {
        problem: &problem,
        options: Options {
            reconnect: read.and_then(|()| may_reconnect(&end.unix.peer)),
            close: read,
        },
    };
    let decided = decide(ctx, &d.place, OutsideKind::Unix, d.meta.ino(), &said);
    end.unix.closed = closed.ok();
    Ok(decided.map(|policy| {
        let end = ConnectionEnd::Unix(end.unix);
        let id = all.descriptions[at];
        FileKind::Connection(carry(ctx, id, policy, end, duplicate))
    }))
}

/// A connection that is carried so: where it is to be kept, the keeper gets it.
pub(super) fn carry(
    ctx: &mut DumpContext<'_>,
    id: DescriptionId,
    policy: ConnectionPolicy,
    end: ConnectionEnd,
    duplicate: OwnedFd,
) -> ConnectionState {
    let wanted = matches!(policy, ConnectionPolicy::Keep | ConnectionPolicy::Auto);
    let kept = wanted && keeps(ctx);
    if kept {
        ctx.keep.push((id, duplicate));
    } else if policy == ConnectionPolicy::Keep {
        ctx.goes_on_with_its_own = true;
    }
    ConnectionState { policy, kept, end }
}

/// A unix socket that is connected to one outside, or is held there itself.
struct UnixEnd {
    unix: UnixConnection,
    /// Who holds the other end.
    holders: Vec<Holder>,
    /// They hold this very socket, or the other end inside the dump.
    shared: bool,
}

/// `None`: neither.
fn unix_connection(
    ctx: &DumpContext<'_>,
    all: &Collection,
    d: &Descriptor,
    socket: &OwnedFd,
) -> Option<UnixEnd> {
    if sockopt::socket_domain(socket).ok()? != AddressFamily::UNIX {
        return None;
    }
    let kind = match sockopt::socket_type(socket).ok()? {
        SocketType::STREAM => UnixSocketKind::Stream,
        SocketType::DGRAM => UnixSocketKind::Datagram,
        SocketType::SEQPACKET => UnixSocketKind::SeqPacket,
        _ => return None,
    };
    let inode = u32::try_from(d.meta.ino()).ok()?;
    let peer = unix_diag::lookup(inode).ok()?.peer;
    let peer = peer.filter(|&peer| peer != 0);
    let inside = peer.and_then(|peer| all.inside(peer));
    let shared = [Some(d), inside.map(|at| &all.descriptors[at])];
    let held = |d: &Descriptor| all.socket_holders.as_ref()?.get(&d.key()).cloned();
    let shared = shared.into_iter().flatten().find_map(held);
    let unix = UnixConnection {
        inode: inode.into(),
        kind,
        peer: name_of_peer(socket),
        closed: None,
    };
    if let Some(holders) = shared {
        return Some(UnixEnd {
            unix,
            holders,
            shared: true,
        });
    }
    let peer = peer.filter(|_| inside.is_none())?;
    let name = format!("socket:[{peer}]");
    let key = (d.meta.dev(), u64::from(peer));
    let mut holders = outside::holders(&[(key, &name)], &ctx.members, &HashSet::new());
    Some(UnixEnd {
        unix,
        holders: holders.remove(&key).unwrap_or_default(),
        shared: false,
    })
}

/// Whether there is an address that leads to the other end from anywhere.
fn may_reconnect(peer: &ByteString) -> Result<(), &'static str> {
    match peer.0.as_slice() {
        [] => Err("its other end has no address"),
        [0, ..] | [b'/', ..] => Ok(()),
        _ => Err("the address of its other end is relative to a directory that is not known"),
    }
}

/// The address of the other end, as `sun_path` holds it.
fn name_of_peer(socket: &OwnedFd) -> ByteString {
    use rustix::net::SocketAddrUnix;
    let peer = rustix::net::getpeername(socket).ok().flatten();
    // A family and nothing else: rustix would take it for an abstract name.
    let named = peer.filter(|peer| peer.addr_len() as usize > size_of::<libc::sa_family_t>());
    let unix = named.and_then(|peer| SocketAddrUnix::try_from(peer).ok());
    let bytes = unix.map(|unix| match (unix.path_bytes(), unix.abstract_name()) {
        (Some(path), _) => path.to_vec(),
        (None, Some(name)) => [&[0], name].concat(),
        (None, None) => Vec::new(),
    });
    bytes.unwrap_or_default().into()
}

/// Turns the ends of pipes that are held outside into connections.
pub(super) fn pipes(
    ctx: &mut DumpContext<'_>,
    all: &Collection,
    outside: &[OutsidePipe],
) -> Result<(), DumpError> {
    for pipe in outside {
        for (place, holders) in all.holders.iter().enumerate() {
            let id = DescriptionId(place as u32);
            let files = &ctx.tables.files;
            let of_pipe =
                |file: &OpenFile| matches!(&file.kind, FileKind::Pipe(end) if end.pipe == pipe.id);
            let Some(place) = files.iter().position(|f| f.id == id && of_pipe(f)) else {
                continue;
            };
            let duplicate = all.descriptors[holders[0]].duplicate()?;
            let end = ConnectionEnd::Pipe(pipe.id);
            let state = carry(ctx, id, pipe.policy, end, duplicate);
            ctx.tables.files[place].kind = FileKind::Connection(state);
        }
    }
    Ok(())
}

/// Hands over what is to be kept, if there is anything.
pub(super) fn start_keeper(
    ctx: &mut DumpContext<'_>,
    image: ImageId,
    first_to_go: &oom::FirstToGo,
) -> Result<Option<Keeper>, DumpError> {
    if ctx.goes_on_with_its_own {
        ctx.notes.push(format!(
            "pid {} goes on with its connections to the outside, so no keeper has them: a restore \
             of this image has to be told what becomes of them (--outside)",
            ctx.options.pid
        ));
    }
    let kept = std::mem::take(&mut ctx.keep);
    if kept.is_empty() {
        return Ok(None);
    }
    let failed = |source: std::io::Error| DumpError::Keeper {
        what: "start",
        source,
    };
    let pid = Pid::from_raw(ctx.options.pid.cast_signed()).ok_or(rustix::io::Errno::SRCH);
    let target = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
    let charge = Charge {
        image: image.0,
        kept: kept.into_iter().map(|(id, fd)| (id.0, fd)).collect(),
        target: target.map_err(|e| failed(e.into()))?,
        limit: ctx.options.keep_for,
        oom_score_adj: first_to_go.before().to_owned(),
    };
    let keeper = Keeper::spawn(&ctx.options.images_dir, charge);
    keeper.map(Some).map_err(failed)
}
