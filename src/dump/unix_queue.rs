//! What an AF_UNIX socket has received, read without taking it out.

use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;

use icecore_images::ByteString;
use icecore_images::unix::UnixSocketKind;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};

use super::descriptor::Descriptor;
use crate::kernel::socket_option;

type Queue = Result<Vec<ByteString>, &'static str>;

const SEVERAL: &str = "more than one record is queued";
const ANCILLARY: &str = "descriptors or other ancillary data are queued";

/// The queue of `socket`, or why it cannot be read whole; `sender`: the other
/// end, unless it is closed.
///
/// Only the first record of a queue can be looked at without SO_PEEK_OFF,
/// which would be the target's. That there is no second one is told by the
/// memory that all of them take.
pub(super) fn peek(
    d: &Descriptor,
    socket: &OwnedFd,
    kind: UnixSocketKind,
    sender: Option<&OwnedFd>,
) -> io::Result<Queue> {
    // Even peeking takes an error away.
    let pending = events(socket)?;
    if pending.contains(PollFlags::ERR) {
        return Ok(Err(
            "an error is pending (its other end was closed with data unread)",
        ));
    }
    if pending.contains(PollFlags::PRI) {
        return Ok(Err("out-of-band data is queued"));
    }
    if descriptors_in_flight(d)? {
        return Ok(Err(ANCILLARY));
    }
    match (kind, sender) {
        (UnixSocketKind::Stream, _) => stream(socket),
        (_, Some(sender)) => records(socket, kind, sender),
        (UnixSocketKind::Datagram, None) => match look(socket, 0)? {
            None => Ok(Ok(Vec::new())),
            Some(_) => Ok(Err("records of an end that is closed are queued")),
        },
        (UnixSocketKind::SeqPacket, None) => last_record(socket),
    }
}

fn events(socket: &OwnedFd) -> io::Result<PollFlags> {
    let mut fds = [PollFd::new(socket, PollFlags::PRI)];
    poll(&mut fds, Some(&rustix::time::Timespec::default()))?;
    Ok(fds[0].revents())
}

/// Peeking at them would install them here.
fn descriptors_in_flight(d: &Descriptor) -> io::Result<bool> {
    let dir = d.link.parent().and_then(|fd| fd.parent());
    let path = dir.map(|task| task.join(format!("fdinfo/{}", d.fd)));
    let text = std::fs::read_to_string(path.unwrap_or_default())?;
    let mut counts = text.lines().filter_map(|l| l.strip_prefix("scm_fds:"));
    Ok(counts.any(|count| count.trim() != "0"))
}

fn stream(socket: &OwnedFd) -> io::Result<Queue> {
    let queued = rustix::io::ioctl_fionread(socket)? as usize;
    if queued == 0 {
        return Ok(Ok(Vec::new()));
    }
    Ok(match look(socket, queued)? {
        Some(seen) if seen.ancillary => Err(ANCILLARY),
        Some(seen) if seen.bytes.len() == queued => Ok(vec![seen.bytes.into()]),
        _ => Err("its queue cannot be looked at whole"),
    })
}

fn records(socket: &OwnedFd, kind: UnixSocketKind, sender: &OwnedFd) -> io::Result<Queue> {
    let memory = socket_option::unread(sender)?;
    if memory == 0 {
        return Ok(Ok(Vec::new()));
    }
    let queued = rustix::io::ioctl_fionread(socket)? as usize;
    let Some(seen) = look(socket, queued)? else {
        return Ok(Err("what its other end has sent is elsewhere"));
    };
    if seen.ancillary {
        return Ok(Err(ANCILLARY));
    }
    if seen.bytes.len() != queued || memory_of_one(kind, &seen.bytes)? != memory {
        return Ok(Err(SEVERAL));
    }
    Ok(Ok(vec![seen.bytes.into()]))
}

/// The queue of a connection whose other end is closed. Empty records after
/// the last read like the end of file that follows them.
fn last_record(socket: &OwnedFd) -> io::Result<Queue> {
    let queued = rustix::io::ioctl_fionread(socket)? as usize;
    if queued == 0 {
        return Ok(Ok(Vec::new()));
    }
    Ok(match look(socket, queued)? {
        Some(seen) if seen.ancillary => Err(ANCILLARY),
        Some(seen) if seen.bytes.len() == queued => Ok(vec![seen.bytes.into()]),
        _ => Err(SEVERAL),
    })
}

struct Seen {
    bytes: Vec<u8>,
    ancillary: bool,
}

/// The first `len` bytes of a stream, the first record of others; `None`:
/// there is none.
fn look(socket: &OwnedFd, len: usize) -> io::Result<Option<Seen>> {
    let mut bytes = vec![0; len];
    let how = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    // Without room for ancillary data nothing of it arrives here.
    let mut none = RecvAncillaryBuffer::default();
    match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut none, how) {
        Ok(message) => {
            bytes.truncate(message.bytes);
            let ancillary = message.flags.contains(ReturnFlags::CTRUNC);
            Ok(Some(Seen { bytes, ancillary }))
        }
        Err(Errno::AGAIN) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// What a record takes of the memory of its sender; 0 if it cannot be sent
/// here.
fn memory_of_one(kind: UnixSocketKind, record: &[u8]) -> io::Result<u32> {
    let (one, _other) = pair(kind)?;
    let size = i32::try_from(record.len()).unwrap_or(i32::MAX);
    // Where this is not allowed the record may still fit.
    let _ = socket_option::set(&one, libc::SO_SNDBUFFORCE, size.saturating_add(4096));
    let how = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match rustix::net::send(&one, record, how) {
        Ok(_) => socket_option::unread(&one),
        Err(_) => Ok(0),
    }
}

/// A pair of ours.
pub(super) fn pair(kind: UnixSocketKind) -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = match kind {
        UnixSocketKind::Stream => SocketType::STREAM,
        UnixSocketKind::Datagram => SocketType::DGRAM,
        UnixSocketKind::SeqPacket => SocketType::SEQPACKET,
    };
    Ok(socketpair(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}
