//! What keeps a socket of AF_INET or AF_INET6 from being made here.

use std::io;
use std::net::SocketAddr;

use icecore_images::inet::{Datagrams, InetProtocol, InetRole, InetSocketState};
use icecore_images::tcp::TcpConnection;
use rustix::net::AddressFamily;
use rustix::thread::CapabilitySet;

use super::{RestoreContext, inet};
use crate::blocker::Place;
use crate::kernel::inet_diag::{self, InetSocket};

/// A socket in a message.
pub(super) fn name(state: &InetSocketState) -> String {
    let protocol = state.protocol.name();
    match (state.local, &state.role) {
        (Some(local), InetRole::Listening { .. }) => {
            format!("{protocol} socket listening at {local}")
        }
        (Some(local), _) => format!("{protocol} socket at {local}"),
        (None, _) => format!("{protocol} socket"),
    }
}

/// Notes every obstacle. The socket is made and bound for a moment: nothing else
/// tells whether it can be.
pub(super) fn plan(ctx: &mut RestoreContext<'_>, state: &InetSocketState) {
    if let Err(e) = inet::bound(state) {
        let (problem, help) = explain(state, &e);
        let problem = format!("{}: {problem}", name(state));
        ctx.obstacle(Place::Machine, problem, help);
    }
    if let InetRole::Connection(connection) = &state.role {
        plan_connection(ctx, state, connection);
    }
    if let InetRole::Datagrams(d) = &state.role {
        plan_groups(ctx, state, d);
    }
    if let InetRole::Datagrams(d) = &state.role
        && !d.queue.is_empty()
        && !ctx.has_capability(CapabilitySet::NET_RAW)
    {
        let problem = format!(
            "CAP_NET_RAW is missing: what {} has queued needs it",
            name(state)
        );
        ctx.obstacle(Place::Machine, problem, Some("run as root"));
    }
    if let InetRole::Listening { backlog } = state.role {
        plan_backlog(ctx, state, backlog);
    }
}

fn plan_connection(ctx: &mut RestoreContext<'_>, state: &InetSocketState, c: &TcpConnection) {
    let name = name(state);
    if !ctx.has_capability(CapabilitySet::NET_ADMIN) {
        let problem = format!("CAP_NET_ADMIN is missing: {name} needs it (TCP_REPAIR)");
        ctx.obstacle(Place::Machine, problem, Some("run as root"));
    }
    if c.other_is_done && c.other.is_none() && !ctx.has_capability(CapabilitySet::NET_RAW) {
        let problem = format!("CAP_NET_RAW is missing: {name} needs it");
        ctx.obstacle(Place::Machine, problem, Some("run as root"));
    }
    let ip = |address: SocketAddr| address.ip().to_canonical();
    if let Some(local) = state.local.map(SocketAddr::from)
        && std::net::UdpSocket::bind(SocketAddr::new(ip(local), 0)).is_err()
    {
        let problem = format!("{name}: this machine has no such address");
        ctx.obstacle(Place::Machine, problem, Some("ip address add …"));
    }
    let peer = SocketAddr::from(c.peer);
    let taken = others(state).into_iter().find(|other| {
        (ip(other.peer), other.peer.port()) == (ip(peer), peer.port()) && other.inode != 0
    });
    if let Some(by) = taken.and_then(|other| holder(other.inode)) {
        let problem = format!("{name}: pid {by} has this connection to {peer}");
        ctx.obstacle(Place::Machine, problem, Some("end it"));
    }
}

fn plan_groups(ctx: &mut RestoreContext<'_>, state: &InetSocketState, d: &Datagrams) {
    for group in &d.groups {
        let interface = String::from_utf8_lossy(&group.interface.0).into_owned();
        if !std::path::Path::new("/sys/class/net")
            .join(&interface)
            .exists()
        {
            let problem = format!(
                "{} is in group {} on interface {interface}, which is not there",
                name(state),
                group.group.ip()
            );
            ctx.obstacle(Place::Machine, problem, None);
        }
    }
}

fn plan_backlog(ctx: &mut RestoreContext<'_>, state: &InetSocketState, backlog: u32) {
    let limit = std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok();
    let limit = limit.and_then(|text| text.trim().parse().ok());
    if let Some(limit) = limit.filter(|limit: &u32| backlog > *limit) {
        ctx.note(format!(
            "{} had room for {backlog} connections not yet accepted, and gets {limit}: \
             net.core.somaxconn",
            name(state)
        ));
    }
}

fn explain(state: &InetSocketState, e: &io::Error) -> (String, Option<&'static str>) {
    match e.kind() {
        io::ErrorKind::AddrInUse => taken(state),
        io::ErrorKind::AddrNotAvailable => (
            "this machine has no such address".to_owned(),
            Some("ip address add …"),
        ),
        io::ErrorKind::PermissionDenied => (
            e.to_string(),
            Some(
                "CAP_NET_BIND_SERVICE for ports below 1024, CAP_NET_RAW for raw sockets, \
                 CAP_NET_ADMIN for options",
            ),
        ),
        _ => (e.to_string(), None),
    }
}

fn taken(state: &InetSocketState) -> (String, Option<&'static str>) {
    let others = others(state);
    let by = others.iter().find_map(|other| holder(other.inode));
    if let Some(by) = by {
        let comm = std::fs::read_to_string(format!("/proc/{by}/comm")).unwrap_or_default();
        let problem = format!("its address is taken by pid {by} ({})", comm.trim());
        return (problem, Some("end it"));
    }
    const TIME_WAIT: u8 = 6;
    match others.iter().any(|other| other.state == TIME_WAIT) {
        true => (
            "connections that have ended keep its port (TIME-WAIT)".to_owned(),
            Some("try again in a minute"),
        ),
        false => ("its address is taken".to_owned(), None),
    }
}

/// Sockets that have the address of this one.
fn others(state: &InetSocketState) -> Vec<InetSocket> {
    let Some(local) = state.local.map(SocketAddr::from) else {
        return Vec::new();
    };
    let number = match state.protocol {
        InetProtocol::Tcp => 6,
        InetProtocol::Udp => 17,
        InetProtocol::UdpLite => 136,
        InetProtocol::Ping | InetProtocol::Raw(_) => return Vec::new(),
    };
    let families = [AddressFamily::INET, AddressFamily::INET6];
    let all = families.map(|family| inet_diag::all(family, number).unwrap_or_default());
    let mut all: Vec<_> = all.into_iter().flatten().collect();
    all.retain(|socket| {
        let (theirs, ours) = (socket.local.ip().to_canonical(), local.ip().to_canonical());
        let same = theirs == ours || theirs.is_unspecified() || ours.is_unspecified();
        socket.local.port() == local.port() && same
    });
    all
}

/// A process that has the socket with this inode number.
fn holder(inode: u32) -> Option<u32> {
    if inode == 0 {
        return None;
    }
    let name = format!("socket:[{inode}]");
    let numbers = |dir: String| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
    };
    numbers("/proc".to_owned()).find(|pid| {
        let dir = format!("/proc/{pid}/fd");
        numbers(dir.clone()).any(|fd| {
            let link = std::fs::read_link(format!("{dir}/{fd}"));
            link.is_ok_and(|link| link.as_os_str() == name.as_str())
        })
    })
}
