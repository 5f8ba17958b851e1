//! What AF_UNIX sockets have received: records, credentials, out-of-band data,
//! errors.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, UCred, recv, recvmsg, send, sendmsg, sockopt,
};

use crate::harness::{Stage, Victim};
use crate::regular::text;
use crate::sys::same;
use crate::unix::{DGRAM, Pair, SEQPACKET, STREAM, events, gets, make, put};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("unix-many-records", many),
        Victim::new("unix-empty-records", empty),
        Victim::new("unix-records-of-a-closed-end", closed),
        Victim::new("unix-reset", reset),
        Victim::new("unix-urgent", urgent),
        Victim::new("unix-urgent-inline", urgent_inline),
        Victim::new("unix-credentials", credentials),
        Victim::new("unix-passcred", passcred),
        Victim::new("unix-peek-offset", peek_offset),
        Victim::refused(
            "unix-empty-records-seen",
            "empty records that were looked at before",
            seen,
        ),
    ]
}

const CLOEXEC: SocketFlags = SocketFlags::CLOEXEC;

/// More than the kernel takes from those who are not connected, and larger.
fn many(stage: &mut Stage) -> Result<(), String> {
    let pairs = [make(DGRAM, CLOEXEC)?, make(SEQPACKET, CLOEXEC)?];
    let record = |i: usize| vec![i as u8; 1 + i * 300];
    loop {
        for (one, _) in &pairs {
            (0..20).try_for_each(|i| put(one, &record(i)))?;
        }
        if !stage.next()? {
            return Ok(());
        }
        for (_, other) in &pairs {
            for i in 0..20 {
                let mut bytes = vec![0; 9000];
                let got = recv(other, &mut bytes[..], RecvFlags::DONTWAIT);
                let (n, _) = got.map_err(text("recv"))?;
                same("record", &bytes[..n], &record(i)[..])?;
            }
            gets("no more", other, Err(Errno::AGAIN))?;
        }
    }
}

/// Empty records in front, between, behind, alone.
fn empty(stage: &mut Stage) -> Result<(), String> {
    const QUEUES: [&[&[u8]]; 3] = [
        &[b"", b"", b"one", b"", b"two", b""],
        &[b""],
        &[b"one", b"", b""],
    ];
    let mut sockets = Vec::new();
    for kind in [DGRAM, SEQPACKET] {
        for queue in QUEUES {
            sockets.push((make(kind, CLOEXEC)?, queue));
        }
    }
    loop {
        for ((one, _), queue) in &sockets {
            queue.iter().try_for_each(|record| put(one, record))?;
        }
        if !stage.next()? {
            return Ok(());
        }
        for ((_, other), queue) in &sockets {
            for record in *queue {
                gets("record", other, Ok(record))?;
            }
            gets("no more", other, Err(Errno::AGAIN))?;
        }
    }
}

/// One that was looked at already.
fn seen(stage: &mut Stage) -> Result<(), String> {
    let (one, other) = make(SEQPACKET, CLOEXEC)?;
    let records = [&b"one"[..], b"", b"two"];
    for record in records {
        put(&one, record)?;
    }
    set_peek_offset(&other, 0)?;
    for record in records {
        let mut bytes = [0; 9];
        let (n, _) = recv(&other, &mut bytes[..], RecvFlags::PEEK).map_err(text("peek"))?;
        same("looked at", &bytes[..n], record)?;
    }
    set_peek_offset(&other, -1)?;
    while stage.next()? {}
    for record in records {
        gets("record", &other, Ok(record))?;
    }
    Ok(())
}

fn set_peek_offset(socket: &OwnedFd, offset: i32) -> Result<(), String> {
    use std::os::fd::AsRawFd;
    let args = [
        socket.as_raw_fd() as u64,
        libc::SOL_SOCKET as u64,
        libc::SO_PEEK_OFF as u64,
        crate::sys::at(&offset),
        4,
    ];
    crate::sys::call("SO_PEEK_OFF", libc::SYS_setsockopt, &args).map(drop)
}

/// Records that outlive who has sent them, read one at a time.
fn closed(stage: &mut Stage) -> Result<(), String> {
    let mut ends = Vec::new();
    for kind in [DGRAM, SEQPACKET] {
        let (one, other) = make(kind, CLOEXEC)?;
        for record in [&b"one"[..], b"", b"two", b"three"] {
            put(&one, record)?;
        }
        ends.push(other);
    }
    let mut left = [&b"one"[..], b"", b"two", b"three"].into_iter();
    while stage.next()? {
        if let Some(record) = left.next() {
            for end in &ends {
                gets("record", end, Ok(record))?;
            }
        }
    }
    Ok(())
}

fn abandoned(kind: rustix::net::SocketType, data: &[u8]) -> Result<OwnedFd, String> {
    let (one, other) = make(kind, CLOEXEC)?;
    put(&one, b"never read")?;
    if !data.is_empty() {
        put(&other, data)?;
    }
    Ok(one)
}

/// Its other end was closed with data that it had not read.
fn reset(stage: &mut Stage) -> Result<(), String> {
    let fresh = || -> Result<_, String> {
        Ok([
            abandoned(STREAM, b"")?,
            abandoned(SEQPACKET, b"")?,
            abandoned(STREAM, b"last words")?,
        ])
    };
    let mut ends = fresh()?;
    while stage.next()? {
        for end in &ends {
            same("error", &events(end)?.contains(PollFlags::ERR), &true)?;
        }
        gets("last words", &ends[2], Ok(b"last words"))?;
        for end in &ends {
            gets("error", end, Err(Errno::CONNRESET))?;
            gets("end of file", end, Ok(b""))?;
        }
        ends = fresh()?;
    }
    Ok(())
}

fn say_urgently(socket: &OwnedFd, parts: &[(&[u8], SendFlags)]) -> Result<(), String> {
    for (bytes, how) in parts {
        send(socket, bytes, *how).map_err(text("send"))?;
    }
    Ok(())
}

const OOB: SendFlags = SendFlags::OOB;
const PLAIN: SendFlags = SendFlags::empty();

/// A byte out of band: in the middle, in front, behind, alone.
fn urgent(stage: &mut Stage) -> Result<(), String> {
    let queues: [&[(&[u8], SendFlags)]; 4] = [
        &[(b"before", PLAIN), (b"!", OOB), (b"after", PLAIN)],
        &[(b"!", OOB), (b"after", PLAIN)],
        &[(b"before", PLAIN), (b"!", OOB)],
        &[(b"!", OOB)],
    ];
    let mut sockets = Vec::new();
    for queue in queues {
        sockets.push((make(STREAM, CLOEXEC)?, queue));
    }
    loop {
        for ((one, _), queue) in &sockets {
            say_urgently(one, queue)?;
        }
        if !stage.next()? {
            return Ok(());
        }
        for ((_, other), queue) in &sockets {
            same("urgent", &events_urgent(other)?, &true)?;
            if queue[0].1 == PLAIN {
                gets("before", other, Ok(b"before"))?;
            }
            let mut byte = [0; 1];
            recv(other, &mut byte[..], RecvFlags::OOB).map_err(text("recv"))?;
            same("urgent", &byte, b"!")?;
            if queue.last().is_some_and(|(bytes, _)| bytes == b"after") {
                gets("after", other, Ok(b"after"))?;
            }
            gets("no more", other, Err(Errno::AGAIN))?;
        }
    }
}

fn events_urgent(socket: &OwnedFd) -> Result<bool, String> {
    use rustix::event::{PollFd, poll};
    let mut fds = [PollFd::new(socket, PollFlags::PRI)];
    poll(&mut fds, Some(&Default::default())).map_err(text("poll"))?;
    Ok(fds[0].revents().contains(PollFlags::PRI))
}

fn urgent_inline(stage: &mut Stage) -> Result<(), String> {
    let (one, other) = make(STREAM, CLOEXEC)?;
    sockopt::set_socket_oobinline(&other, true).map_err(text("SO_OOBINLINE"))?;
    loop {
        say_urgently(&one, &[(b"before", PLAIN), (b"!", OOB), (b"after", PLAIN)])?;
        if !stage.next()? {
            return Ok(());
        }
        let inline = sockopt::socket_oobinline(&other);
        same("option", &inline, &Ok(true))?;
        gets("before", &other, Ok(b"before"))?;
        gets("the rest", &other, Ok(b"!after"))?;
    }
}

fn with_credentials(socket: &OwnedFd, bytes: &[u8], who: UCred) -> Result<(), String> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmCredentials(who));
    let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, PLAIN);
    sent.map(drop).map_err(text("sendmsg"))
}

/// Data, and the pid and uid that came with it.
type Whose = (Vec<u8>, Option<(i32, u32)>);

/// What comes next, and whose it is.
fn whose(socket: impl AsFd) -> Result<Whose, String> {
    let mut bytes = [0; 100];
    let mut space = [MaybeUninit::uninit(); 256];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
    let got = recvmsg(socket, &mut parts, &mut control, RecvFlags::DONTWAIT);
    let n = got.map_err(text("recvmsg"))?.bytes;
    let who = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(c) => {
            Some((c.pid.as_raw_nonzero().get(), c.uid.as_raw()))
        }
        _ => None,
    });
    Ok((bytes[..n].to_vec(), who))
}

fn me() -> UCred {
    UCred {
        pid: rustix::process::getpid(),
        uid: rustix::process::getuid(),
        gid: rustix::process::getgid(),
    }
}

/// Credentials that were sent to one who did not want to know, and then does.
fn credentials(stage: &mut Stage) -> Result<(), String> {
    let pairs: [Pair; 2] = [make(STREAM, CLOEXEC)?, make(DGRAM, CLOEXEC)?];
    let other = UCred {
        uid: rustix::process::Uid::from_raw(77),
        ..me()
    };
    let (own, theirs) = (me().pid.as_raw_nonzero().get(), 77);
    loop {
        for (one, _) in &pairs {
            put(one, b"nobody's")?;
            with_credentials(one, b"theirs", other)?;
            with_credentials(one, b"mine", me())?;
        }
        if !stage.next()? {
            return Ok(());
        }
        for (_, end) in &pairs {
            sockopt::set_socket_passcred(end, true).map_err(text("SO_PASSCRED"))?;
            let (bytes, _) = whose(end)?;
            same("first", &bytes[..], &b"nobody's"[..])?;
            let expected = (b"theirs".to_vec(), Some((own, theirs)));
            same("second", &whose(end)?, &expected)?;
            let expected = (b"mine".to_vec(), Some((own, me().uid.as_raw())));
            same("third", &whose(end)?, &expected)?;
            sockopt::set_socket_passcred(end, false).map_err(text("SO_PASSCRED"))?;
        }
    }
}

/// All that it gets comes with credentials.
fn passcred(stage: &mut Stage) -> Result<(), String> {
    let (one, other) = make(SEQPACKET, CLOEXEC)?;
    sockopt::set_socket_passcred(&other, true).map_err(text("SO_PASSCRED"))?;
    let who = Some((me().pid.as_raw_nonzero().get(), me().uid.as_raw()));
    loop {
        put(&one, b"before")?;
        put(&one, b"")?;
        if !stage.next()? {
            return Ok(());
        }
        put(&one, b"after")?;
        for bytes in [&b"before"[..], b"", b"after"] {
            same("record", &whose(&other)?, &(bytes.to_vec(), who))?;
        }
    }
}

/// Where looking goes on.
fn peek_offset(stage: &mut Stage) -> Result<(), String> {
    let (one, other) = make(STREAM, CLOEXEC)?;
    set_peek_offset(&other, 0)?;
    put(&one, b"0123456789")?;
    let look = |n: usize| -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; n];
        let (n, _) = recv(&other, &mut bytes[..], RecvFlags::PEEK).map_err(text("peek"))?;
        bytes.truncate(n);
        Ok(bytes)
    };
    same("first", &look(2)?[..], &b"01"[..])?;
    let mut expected = [&b"23"[..], b"45", b"67"].into_iter();
    while stage.next()? {
        same("next", &look(2)?[..], expected.next().unwrap_or_default())?;
    }
    Ok(())
}
