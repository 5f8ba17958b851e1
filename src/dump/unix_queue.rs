//! What an AF_UNIX socket has received, read without taking it out.
//!
//! Only the first record of a queue can be looked at as the socket is. For the
//! others SO_PEEK_OFF is set to go from one to the next, and SO_PASSCRED to see
//! the credentials that came with each. Both belong to the socket, so the
//! target's, and are set back at once: by us, or, if icecore is killed, by a
//! guardian that is told before.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use icecore_images::unix::UnixSocketKind;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::kernel::socket_option;
use crate::kernel::unix_message::{self, Message};
use crate::tracer::{Guardian, Told, Undo, fault};

/// What is looked at at once, at first, bytes.
const ROOM: usize = 1 << 18;
/// After so many sockets there is a new guardian: it keeps what it is sent.
const SOCKETS_OF_A_GUARDIAN: u32 = 200;

/// A queue, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Pieces of a stream, or records. `bytes`, `rights`, `credentials` (none:
    /// pid 0) and `sender` are as they were sent.
    pub(super) records: Vec<Message>,
    /// Where in a stream the out-of-band byte is.
    pub(super) urgent: Option<u64>,
}

/// Reads queues, watched over by a guardian of its own.
#[derive(Debug, Default)]
pub(super) struct Reader {
    guardian: Option<Guardian>,
    sockets: u32,
}

/// Why a queue cannot be read.
pub(super) type Problem = &'static str;

impl Reader {
    /// The queue of `socket`, or why it cannot be read whole.
    pub(super) fn read(
        &mut self,
        socket: &OwnedFd,
        kind: UnixSocketKind,
    ) -> io::Result<Result<Queue, Problem>> {
        let seen = events(socket)?;
        let queued = rustix::io::ioctl_fionread(socket)? as usize;
        let stream = kind == UnixSocketKind::Stream;
        if !seen.contains(PollFlags::IN) || stream && queued == 0 {
            return Ok(Ok(Queue::default()));
        }
        // Looking at records takes a pending error away; looking at a stream
        // does so only at its end.
        if seen.contains(PollFlags::ERR) && !stream {
            return Ok(match queued {
                0 => Ok(Queue::default()),
                _ => Err(
                    "an error is pending, and the records behind it cannot be looked at \
                          without taking it away",
                ),
            });
        }
        let records = self.changed(socket, |socket| match stream {
            true => pieces(socket, queued),
            false => records(socket, queued.max(ROOM)),
        })?;
        match stream {
            true => finish_stream(socket, records, queued, seen.contains(PollFlags::PRI)),
            false => Ok(Ok(Queue {
                records,
                urgent: None,
            })),
        }
    }

    /// Runs `look` while the socket is set up for it.
    fn changed<T>(
        &mut self,
        socket: &OwnedFd,
        look: impl FnOnce(&OwnedFd) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut told = Vec::new();
        let mut before = Vec::new();
        for (option, value) in [(libc::SO_PASSCRED, 1), (libc::SO_PEEK_OFF, 0)] {
            let was = socket_option::get(socket, option)?;
            told.push(self.tell(socket, option, was)?);
            before.push((option, was, value));
        }
        let done = before
            .iter()
            .try_for_each(|&(option, _, value)| set(socket, option, value));
        let seen = done.and_then(|()| look(socket));
        for (option, was, _) in before {
            set(socket, option, was)?;
        }
        fault::point(fault::Kind::Queue);
        for told in told {
            self.guardian.as_mut().map_or(Ok(()), |g| g.forget(told))?;
        }
        seen
    }

    fn tell(&mut self, socket: &OwnedFd, name: i32, value: i32) -> io::Result<Told> {
        self.sockets += 1;
        let due = self.sockets.is_multiple_of(SOCKETS_OF_A_GUARDIAN) && name == libc::SO_PASSCRED;
        if let Some(old) = self.guardian.take_if(|_| due) {
            old.dismiss()?;
        }
        let guardian = match &mut self.guardian {
            Some(guardian) => guardian,
            none => none.insert(Guardian::spawn()?),
        };
        guardian.undo_later(&Undo::SocketOption {
            socket: socket.as_fd(),
            level: libc::SOL_SOCKET,
            name,
            value,
        })
    }

    /// Lets the guardian go, and with it the sockets that it holds.
    pub(super) fn finish(self) -> io::Result<()> {
        self.guardian.map_or(Ok(()), Guardian::dismiss)
    }
}

fn set(socket: &OwnedFd, option: i32, value: i32) -> io::Result<()> {
    fault::point(fault::Kind::Queue);
    socket_option::set(socket, option, value)
}

/// What poll(2) tells at once.
pub(super) fn events(socket: &OwnedFd) -> io::Result<PollFlags> {
    let mut fds = [PollFd::new(socket, PollFlags::IN | PollFlags::PRI)];
    poll(&mut fds, Some(&rustix::time::Timespec::default()))?;
    Ok(fds[0].revents())
}

/// Credentials as they were sent, if they were.
fn sent(mut message: Message) -> Message {
    message.credentials = message.credentials.filter(|(pid, ..)| *pid != 0);
    message
}

/// Records, until there are none. A record always has credentials to show,
/// which tells an empty one from the end of file.
fn records(socket: &OwnedFd, mut room: usize) -> io::Result<Vec<Message>> {
    let mut records: Vec<Message> = Vec::new();
    let mut at = 0_usize;
    while let Some(message) = unix_message::receive(socket, room, libc::MSG_PEEK)? {
        fault::point(fault::Kind::Queue);
        if message.flags & libc::MSG_TRUNC != 0 {
            room *= 2;
            socket_option::set(socket, libc::SO_PEEK_OFF, offset(at)?)?;
            continue;
        }
        if message.credentials.is_none() {
            break;
        }
        at += message.bytes.len();
        records.push(sent(message));
    }
    Ok(records)
}

/// Pieces of a stream of `queued` bytes: where one with descriptors begins or
/// ends, and where credentials change, reading stops.
fn pieces(socket: &OwnedFd, queued: usize) -> io::Result<Vec<Message>> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < queued {
        let Some(message) = unix_message::receive(socket, queued, libc::MSG_PEEK)? else {
            break;
        };
        fault::point(fault::Kind::Queue);
        let len = message.bytes.len();
        if len == 0 {
            break;
        }
        match message.rights.is_empty() {
            true => pieces.push(sent(message)),
            false => pieces.extend(with_rights(socket, sent(message), at)?),
        }
        at += len;
    }
    Ok(pieces)
}

/// Descriptors come with the last message of what was looked at.
fn with_rights(socket: &OwnedFd, mut last: Message, at: usize) -> io::Result<Vec<Message>> {
    let end = at + last.bytes.len();
    socket_option::set(socket, libc::SO_PEEK_OFF, offset(at)?)?;
    let start = unix_message::before_last(socket, last.bytes.len())?;
    socket_option::set(socket, libc::SO_PEEK_OFF, offset(end)?)?;
    let own = last.bytes.split_off(start);
    let before = Message {
        bytes: std::mem::replace(&mut last.bytes, own),
        credentials: last.credentials,
        ..Message::default()
    };
    Ok(match before.bytes.is_empty() {
        true => vec![last],
        false => vec![before, last],
    })
}

fn offset(at: usize) -> io::Result<i32> {
    i32::try_from(at).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

/// Finds the out-of-band byte, and whether all was seen.
fn finish_stream(
    socket: &OwnedFd,
    mut records: Vec<Message>,
    queued: usize,
    urgent: bool,
) -> io::Result<Result<Queue, Problem>> {
    let seen: usize = records.iter().map(|r| r.bytes.len()).sum();
    let mut mark = None;
    if urgent {
        let plain = records
            .iter()
            .all(|r| r.rights.is_empty() && r.credentials.is_none());
        if !plain {
            return Ok(Err("an out-of-band byte is queued among ancillary data"));
        }
        let first = unix_message::at_mark(socket)?;
        if first && seen + 1 == queued {
            // Looking passes over it.
            let byte = unix_message::receive(socket, 1, libc::MSG_PEEK | libc::MSG_OOB)?;
            records.insert(0, byte.unwrap_or_default());
        }
        // Looking stops at it.
        mark = Some(match first {
            true => 0,
            false => records.first().map_or(0, |r| r.bytes.len() as u64),
        });
    }
    let seen: usize = records.iter().map(|r| r.bytes.len()).sum();
    Ok(match seen == queued {
        true => Ok(Queue {
            records,
            urgent: mark,
        }),
        false => Err("its queue cannot be looked at whole"),
    })
}

/// Memory that records take of who has sent them, bytes. It is the same each
/// time a record of that length is sent; 0 where it cannot be sent here.
pub(super) fn memory(kind: UnixSocketKind, records: &[Message]) -> io::Result<u64> {
    let mut by_length = HashMap::new();
    let mut sum = 0;
    for record in records {
        let len = record.bytes.len();
        let known = by_length.get(&len).copied();
        let memory = match known {
            Some(memory) => memory,
            None => memory_of_one(kind, &record.bytes)?,
        };
        by_length.insert(len, memory);
        sum += u64::from(memory);
    }
    Ok(sum)
}

fn memory_of_one(kind: UnixSocketKind, record: &[u8]) -> io::Result<u32> {
    let (one, _other) = pair(kind)?;
    let size = i32::try_from(record.len()).unwrap_or(i32::MAX);
    // Where this is not allowed the record may still fit.
    let _ = socket_option::set(&one, libc::SO_SNDBUFFORCE, size.saturating_add(4096));
    let message = unix_message::Outgoing {
        bytes: record,
        ..Default::default()
    };
    match unix_message::send(&one, &message) {
        Ok(()) => socket_option::unread(&one),
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
