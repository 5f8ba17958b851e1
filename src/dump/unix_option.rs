//! Options of AF_UNIX sockets that are not as a new socket has them.

use std::io;
use std::os::fd::OwnedFd;

use icecore_images::unix::UnixSocketKind;

use super::unix_queue;
use crate::kernel::socket_option;

/// Carried over.
const CARRIED: [i32; 23] = [
    libc::SO_DEBUG,
    libc::SO_REUSEADDR,
    libc::SO_DONTROUTE,
    libc::SO_BROADCAST,
    libc::SO_KEEPALIVE,
    libc::SO_OOBINLINE,
    libc::SO_NO_CHECK,
    libc::SO_PRIORITY,
    libc::SO_PASSCRED,
    libc::SO_RCVLOWAT,
    libc::SO_TIMESTAMP,
    libc::SO_PASSSEC,
    libc::SO_TIMESTAMPNS,
    libc::SO_MARK,
    libc::SO_TIMESTAMPING,
    libc::SO_RXQ_OVFL,
    libc::SO_PEEK_OFF,
    TIMESTAMP_NEW,
    TIMESTAMPNS_NEW,
    // SO_TXREHASH, SO_BUF_LOCK, SO_PASSPIDFD, SO_PASSRIGHTS.
    74,
    72,
    76,
    83,
];
const TIMESTAMP_NEW: i32 = 63;
const TIMESTAMPNS_NEW: i32 = 64;

/// Carried only as every socket has them at first.
const AS_AT_FIRST: [(&str, i32); 2] = [
    ("SO_LINGER", libc::SO_LINGER),
    ("SO_LOCK_FILTER", libc::SO_LOCK_FILTER),
];

/// What differs from a new socket: name, value; or the name of what cannot be
/// carried.
pub(super) fn changed(
    socket: &OwnedFd,
    kind: UnixSocketKind,
) -> io::Result<Result<Vec<(i32, i32)>, &'static str>> {
    if socket_option::has_filter(socket) {
        return Ok(Err("a filter (SO_ATTACH_FILTER)"));
    }
    let (fresh, _other) = unix_queue::pair(kind)?;
    // What this kernel does not know it knows of neither.
    let value =
        |socket: &OwnedFd, option| socket_option::get(socket, option).map_err(|e| e.raw_os_error());
    let differs = |option| value(socket, option) != value(&fresh, option);
    if let Some((name, _)) = AS_AT_FIRST.into_iter().find(|(_, o)| differs(*o)) {
        return Ok(Err(name));
    }
    let changed = CARRIED.into_iter().filter(|&option| differs(option));
    Ok(Ok(changed
        .filter_map(|option| Some((option, value(socket, option).ok()?)))
        .collect()))
}

/// Whether what is received with this option tells when it came.
pub(super) fn stamps(option: i32) -> bool {
    let stamps = [
        libc::SO_TIMESTAMP,
        libc::SO_TIMESTAMPNS,
        libc::SO_TIMESTAMPING,
    ];
    stamps.contains(&option) || [TIMESTAMP_NEW, TIMESTAMPNS_NEW].contains(&option)
}
