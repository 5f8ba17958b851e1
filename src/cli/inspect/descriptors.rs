//! Descriptor tables, and what each descriptor refers to.

use std::fmt::Write as _;

use icecore_images::connection::{ConnectionEnd, ConnectionPolicy, ConnectionState};
use icecore_images::files::{FdTable, FileKind, OpenFile};
use icecore_images::ids::PipeId;
use icecore_images::inet::{InetRole, InetSocketState};
use icecore_images::shmem::ShmemKind;
use icecore_images::timerfd::TimerFdState;
use icecore_images::unix::{UnixPeer, UnixSocketKind, UnixSocketState};
use icecore_images::{ByteString, Checkpoint};
use indicatif::BinaryBytes;

use super::table::Table;
use super::words;

/// Shows a descriptor table. Writing to a string cannot fail.
pub(super) fn show(out: &mut String, image: &Checkpoint, table: &FdTable) {
    let users: Vec<String> = image
        .tasks
        .iter()
        .filter(|task| task.fd_table == table.id)
        .map(|task| task.pid.to_string())
        .collect();
    let _ = writeln!(
        out,
        "\nDESCRIPTORS of {}: {}",
        users.join(", "),
        table.entries.len()
    );
    if table.entries.is_empty() {
        return;
    }
    let mut shown = Table::new(["fd", "mode", "position", "what"], &[0, 2]);
    for entry in &table.entries {
        let Some(file) = image.files.get(entry.description.0 as usize) else {
            continue; // a checked image has no such entry
        };
        let first = table.entries.iter().find(|e| e.description == file.id);
        let what = match first {
            Some(first) if first.fd != entry.fd => format!("same as {}", first.fd),
            _ => what(image, file),
        };
        let position = match has_position(&file.kind) {
            true => file.position.to_string(),
            false => String::new(),
        };
        shown.row([
            entry.fd.to_string(),
            mode(file.flags, entry.cloexec),
            position,
            what,
        ]);
    }
    shown.write(out);
}

fn has_position(kind: &FileKind) -> bool {
    matches!(
        kind,
        FileKind::Regular(_) | FileKind::Directory(_) | FileKind::Proc(_) | FileKind::MemFd(_)
    )
}

/// `rw append nonblock cloexec`.
fn mode(flags: u32, cloexec: bool) -> String {
    const NAMES: [(u32, &str); 5] = [
        (0o2_000, "append"),
        (0o4_000, "nonblock"),
        (0o20_000, "async"),
        (0o40_000, "direct"),
        (0o4_010_000, "sync"),
    ];
    let access = match (flags & 0o10_000_000, flags & 3) {
        (0, 0) => "r",
        (0, 1) => "w",
        (0, _) => "rw",
        _ => "path",
    };
    let mut mode = access.to_owned();
    for (bits, name) in NAMES {
        if flags & bits == bits {
            mode = mode + " " + name;
        }
    }
    if cloexec {
        mode.push_str(" cloexec");
    }
    mode
}

/// A description in a few words.
pub(in crate::cli) fn what(image: &Checkpoint, file: &OpenFile) -> String {
    match &file.kind {
        FileKind::Regular(f) | FileKind::Directory(f) | FileKind::PathOnly(f) => words::file(f),
        FileKind::Device(device) => words::file(&device.file),
        FileKind::Proc(proc) => proc.path.to_string(),
        FileKind::Pipe(end) => pipe(image, end.pipe),
        FileKind::EventFd(counter) => format!("eventfd, count {}", counter.count),
        FileKind::Epoll(epoll) => {
            let fds: Vec<String> = epoll.targets.iter().map(|t| t.fd.to_string()).collect();
            match fds.is_empty() {
                true => "epoll, watching nothing".to_owned(),
                false => format!("epoll, watching {}", fds.join(" ")),
            }
        }
        FileKind::TimerFd(timer) => timerfd(timer),
        FileKind::SignalFd(s) => format!("signalfd for {}", words::signals(s.mask)),
        FileKind::Inotify(inotify) => {
            let paths = inotify.watches.iter().map(|w| w.file.path.to_string());
            format!("inotify, watching {}", paths.collect::<Vec<_>>().join(" "))
        }
        FileKind::MemFd(id) => match image.shmems.get(id.0 as usize) {
            Some(shmem) => match &shmem.kind {
                ShmemKind::MemFd { name, .. } => {
                    format!("memfd {name} of {}", BinaryBytes(shmem.size))
                }
                _ => format!("shared memory {id}"),
            },
            None => format!("memfd {id}"),
        },
        FileKind::PidFd(pidfd) => format!("pidfd of {}", pidfd.pid),
        FileKind::Unix(socket) => unix(socket),
        FileKind::Connection(connection) => outside(image, connection),
        FileKind::Inet(socket) => inet(socket),
    }
}

fn pipe(image: &Checkpoint, id: PipeId) -> String {
    let Some(pipe) = image.pipes.get(id.0 as usize) else {
        return format!("pipe {id}");
    };
    let queued: usize = pipe.queue.iter().map(|part| part.bytes.0.len()).sum();
    let name = match &pipe.fifo {
        Some(fifo) => format!("FIFO {}", words::file(fifo)),
        None => format!("pipe {id}"),
    };
    match queued {
        0 => name,
        queued => format!("{name}, {queued} of {} bytes queued", pipe.capacity),
    }
}

fn outside(image: &Checkpoint, connection: &ConnectionState) -> String {
    let what = match &connection.end {
        ConnectionEnd::Unix(socket) => {
            let peer = match socket.peer.0.as_slice() {
                [] => "a socket without a name".to_owned(),
                [0, name @ ..] => format!("@{}", ByteString::from(name)),
                _ => socket.peer.to_string(),
            };
            format!("unix {} socket, connected to {peer}", type_of(socket.kind))
        }
        ConnectionEnd::Pipe(id) => pipe(image, *id),
        ConnectionEnd::Tcp(tcp) => format!("TCP from {} to {}", tcp.local, tcp.peer),
        ConnectionEnd::Tty(tty) => format!("terminal {}", tty.path),
        ConnectionEnd::File(path) => path.to_string(),
    };
    let policy = match connection.policy {
        ConnectionPolicy::Keep => "keep",
        ConnectionPolicy::Reconnect => "reconnect",
        ConnectionPolicy::Close => "close",
        ConnectionPolicy::Auto => "auto",
        ConnectionPolicy::Caller => "the restorer's instead",
    };
    let kept = if connection.kept { ", kept" } else { "" };
    format!("{what}, outside ({policy}{kept})")
}

fn type_of(kind: UnixSocketKind) -> &'static str {
    match kind {
        UnixSocketKind::Stream => "stream",
        UnixSocketKind::Datagram => "datagram",
        UnixSocketKind::SeqPacket => "seqpacket",
    }
}

fn unix(socket: &UnixSocketState) -> String {
    let kind = type_of(socket.kind);
    let peer = match &socket.peer {
        UnixPeer::None => "not connected".to_owned(),
        UnixPeer::Listening { waiting, .. } => format!("listening, {} waiting", waiting.len()),
        UnixPeer::Open(id) => format!("connected to open file {id}"),
        UnixPeer::Closed { .. } => "its other end closed".to_owned(),
        UnixPeer::Waiting(id) => format!("not yet accepted by open file {id}"),
    };
    let name = match socket.name.as_ref().map(|n| n.name.0.split_at(1)) {
        Some((b"\0", name)) => format!(" @{}", ByteString::from(name)),
        Some((first, rest)) => format!(" {}", ByteString::from([first, rest].concat())),
        None => String::new(),
    };
    let queued: usize = socket.queue.iter().map(|r| r.bytes.0.len()).sum();
    let records = match socket.kind {
        UnixSocketKind::Stream => String::new(),
        _ => format!(" in {} records", socket.queue.len()),
    };
    format!("unix {kind} socket{name}, {peer}, {queued} bytes{records} queued")
}

fn inet(socket: &InetSocketState) -> String {
    let name = socket.protocol.name();
    let local = match socket.local {
        Some(local) => format!(" at {local}"),
        None => String::new(),
    };
    match &socket.role {
        InetRole::Idle => format!("{name} socket{local}"),
        InetRole::Listening { .. } => format!("{name} socket listening{local}"),
        InetRole::Ended { queue } => {
            format!("{name} socket, closed, {} bytes queued", queue.0.len())
        }
        InetRole::Connection(c) => format!(
            "{name} connection{local} to {}, {} bytes queued, {} not acknowledged",
            c.peer,
            c.receiving.data.0.len(),
            c.sending.data.0.len()
        ),
        InetRole::Datagrams(d) => {
            let peer = d.peer.map_or(String::new(), |peer| format!(" to {peer}"));
            let queued = match d.queue.len() {
                0 => String::new(),
                n => format!(", {n} datagrams queued"),
            };
            format!("{name} socket{local}{peer}{queued}")
        }
    }
}

fn timerfd(timer: &TimerFdState) -> String {
    let mut what = format!("timerfd on {}", words::clock(timer.clock));
    what.push_str(match timer.expires_ns {
        0 => ", disarmed",
        _ => ", armed",
    });
    if timer.interval_ns != 0 {
        what = what + ", every " + &words::duration(timer.interval_ns);
    }
    what
}
