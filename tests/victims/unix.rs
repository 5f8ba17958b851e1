//! AF_UNIX sockets that socketpair made.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown,
    socketpair,
};

use crate::harness::{Stage, Victim};
use crate::regular::text;
use crate::sys::same;

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("unix-pair", pair),
        Victim::new("unix-full", full),
        Victim::new("unix-closed", closed),
        Victim::new("unix-shutdown", shut),
        Victim::new("unix-records", records),
        Victim::new("unix-options", options),
        Victim::new("unix-epoll", watched),
        Victim::refused("unix-outside", "unix stream socket, connected", idle).prepare(outside),
        Victim::refused("unix-shared", "unix stream socket, connected", shared),
    ]
}

pub(crate) const STREAM: SocketType = SocketType::STREAM;
pub(crate) const DGRAM: SocketType = SocketType::DGRAM;
pub(crate) const SEQPACKET: SocketType = SocketType::SEQPACKET;

pub(crate) type Pair = (OwnedFd, OwnedFd);

pub(crate) fn make(kind: SocketType, flags: SocketFlags) -> Result<Pair, String> {
    socketpair(AddressFamily::UNIX, kind, flags, None).map_err(text("socketpair"))
}

pub(crate) fn put(socket: impl AsFd, bytes: &[u8]) -> Result<(), String> {
    let sent = send(socket, bytes, SendFlags::NOSIGNAL).map_err(text("send"))?;
    same("bytes sent", &sent, &bytes.len())
}

pub(crate) fn take(socket: impl AsFd, len: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; len];
    let (n, _) = recv(socket, &mut bytes[..], RecvFlags::DONTWAIT)?;
    bytes.truncate(n);
    Ok(bytes)
}

pub(crate) fn gets(
    what: &str,
    socket: impl AsFd,
    expected: Result<&[u8], Errno>,
) -> Result<(), String> {
    same(what, &take(socket, 1000), &expected.map(<[u8]>::to_vec))
}

pub(crate) fn write_error(socket: impl AsFd) -> Result<(), Errno> {
    let how = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    send(socket, b"x", how).map(drop)
}

pub(crate) fn events(socket: impl AsFd) -> Result<PollFlags, String> {
    let mut fds = [PollFd::new(&socket, PollFlags::IN | PollFlags::OUT)];
    poll(&mut fds, Some(&Default::default())).map_err(text("poll"))?;
    Ok(fds[0].revents())
}

/// Empty; data both ways; duplicates; ends that do and do not block.
fn pair(stage: &mut Stage) -> Result<(), String> {
    let empty = make(STREAM, SocketFlags::NONBLOCK)?;
    let both = make(STREAM, SocketFlags::CLOEXEC)?;
    let copy = rustix::io::dup(&both.1).map_err(text("dup"))?;
    put(&both.0, b"to the second, ")?;
    put(&both.1, b"to the first")?;
    while stage.next()? {
        let mut byte = [0; 1];
        let read = rustix::io::read(&empty.0, &mut byte[..]);
        same("empty", &read, &Err(Errno::AGAIN))?;
        put(&both.0, b"more")?;
        gets("second", &copy, Ok(b"to the second, more"))?;
        gets("first", &both.0, Ok(b"to the first"))?;
        gets("drained", &both.1, Err(Errno::AGAIN))?;
        put(&both.0, b"to the second, ")?;
        put(&copy, b"to the first")?;
        put(&empty.0, b"through")?;
        gets("through", &empty.1, Ok(b"through"))?;
    }
    Ok(())
}

/// As much as goes in, in large pieces and in small ones.
fn full(stage: &mut Stage) -> Result<(), String> {
    let data: Vec<u8> = (0..1 << 20).map(|i| (i / 4096 + i) as u8).collect();
    let fill = |socket: &OwnedFd, piece: usize| -> Result<usize, String> {
        let mut sent = 0;
        loop {
            match rustix::io::write(socket, &data[sent..sent + piece]) {
                Ok(n) => sent += n,
                Err(Errno::AGAIN) => return Ok(sent),
                Err(e) => return Err(format!("write: {e}")),
            }
        }
    };
    let pieces = [1, 1000, 100_000];
    let mut pairs = Vec::new();
    for piece in pieces {
        let pair = make(STREAM, SocketFlags::NONBLOCK)?;
        let sent = fill(&pair.0, piece)?;
        pairs.push((pair, piece, sent));
    }
    while stage.next()? {
        for ((one, other), piece, sent) in &mut pairs {
            let got = take(&*other, 1 << 20).map_err(text("read"))?;
            same("contents", &(got == data[..*sent]), &true)?;
            *sent = fill(&*one, *piece)?;
        }
    }
    Ok(())
}

/// One end closed: with data, without, of each kind.
fn closed(stage: &mut Stage) -> Result<(), String> {
    let reader = make(STREAM, SocketFlags::CLOEXEC)?.0;
    let (last, gone) = make(STREAM, SocketFlags::CLOEXEC)?;
    put(&gone, b"last words, to be read bit by bit")?;
    drop(gone);
    let (record, gone) = make(SEQPACKET, SocketFlags::CLOEXEC)?;
    put(&gone, b"a record")?;
    drop(gone);
    let datagram = make(DGRAM, SocketFlags::CLOEXEC)?.0;
    let mut words = [&b"last"[..], b" wor", b"ds, "].into_iter();
    let mut first = true;
    while stage.next()? {
        gets("end of file", &reader, Ok(b""))?;
        same("writing", &write_error(&reader), &Err(Errno::PIPE))?;
        same("hang-up", &events(&reader)?.contains(PollFlags::HUP), &true)?;
        if let Some(word) = words.next() {
            same("last words", &take(&last, 4), &Ok(word.to_vec()))?;
        }
        let expected: &[u8] = if std::mem::take(&mut first) {
            b"a record"
        } else {
            b""
        };
        gets("record", &record, Ok(expected))?;
        gets("datagram", &datagram, Err(Errno::AGAIN))?;
    }
    // Telling this ends the connection.
    same(
        "datagram",
        &write_error(&datagram),
        &Err(Errno::CONNREFUSED),
    )
}

/// Each direction, with data left.
fn shut(stage: &mut Stage) -> Result<(), String> {
    let make = |how| -> Result<Pair, String> {
        let pair = make(STREAM, SocketFlags::CLOEXEC)?;
        put(&pair.0, b"forth")?;
        put(&pair.1, b"back")?;
        shutdown(&pair.0, how).map_err(text("shutdown"))?;
        Ok(pair)
    };
    let (write, read) = (make(Shutdown::Write)?, make(Shutdown::Read)?);
    let both = make(Shutdown::Both)?;
    let datagram = self::make(DGRAM, SocketFlags::CLOEXEC)?;
    shutdown(&datagram.0, Shutdown::Write).map_err(text("shutdown"))?;
    put(&datagram.1, b"datagram")?;
    let mut first = true;
    while stage.next()? {
        same("written", &write_error(&write.0), &Err(Errno::PIPE))?;
        same("written", &write_error(&read.1), &Err(Errno::PIPE))?;
        same("written", &write_error(&both.0), &Err(Errno::PIPE))?;
        same("written", &write_error(&both.1), &Err(Errno::PIPE))?;
        same("written", &write_error(&datagram.0), &Err(Errno::PIPE))?;
        let left = |bytes: &'static [u8]| if first { bytes } else { b"" };
        for pair in [&write, &read, &both] {
            let (there, here) = (left(b"forth"), left(b"back"));
            let ends = |socket, bytes: &'static [u8], open| match bytes {
                b"" if open => gets("drained", socket, Err(Errno::AGAIN)),
                bytes => gets("what was left", socket, Ok(bytes)),
            };
            ends(&pair.1, there, std::ptr::eq(pair, &read))?;
            ends(&pair.0, here, std::ptr::eq(pair, &write))?;
        }
        gets("datagram", &datagram.0, Ok(b"datagram"))?;
        put(&datagram.1, b"datagram")?;
        put(&write.1, b"open").and_then(|()| gets("open", &write.0, Ok(b"open")))?;
        first = false;
    }
    Ok(())
}

/// A record in each direction, a large one, an empty one.
fn records(stage: &mut Stage) -> Result<(), String> {
    let large = vec![7; 100_000];
    let mut pairs = Vec::new();
    for kind in [DGRAM, SEQPACKET] {
        for pair in [b"", &b"one record"[..], &large] {
            pairs.push((make(kind, SocketFlags::CLOEXEC)?, pair));
        }
    }
    for ((one, other), record) in &pairs {
        put(one, record)?;
        put(other, b"back")?;
    }
    while stage.next()? {
        for ((one, other), record) in &pairs {
            same("record", &take(other, 1 << 18), &Ok(record.to_vec()))?;
            gets("one record only", other, Err(Errno::AGAIN))?;
            // What of a record is not read is dropped.
            same("part", &take(one, 2), &Ok(b"ba".to_vec()))?;
            gets("rest", one, Err(Errno::AGAIN))?;
            put(one, record)?;
            put(other, b"back")?;
        }
    }
    Ok(())
}

fn options(stage: &mut Stage) -> Result<(), String> {
    let (one, other) = make(STREAM, SocketFlags::CLOEXEC)?;
    sockopt::set_socket_send_buffer_size(&one, 10_000).map_err(text("setsockopt"))?;
    sockopt::set_socket_recv_buffer_size(&other, 20_000).map_err(text("setsockopt"))?;
    let time = Some(Duration::from_millis(20));
    sockopt::set_socket_timeout(&one, Timeout::Recv, time).map_err(text("setsockopt"))?;
    while stage.next()? {
        let size = sockopt::socket_send_buffer_size(&one);
        same("send buffer", &size, &Ok(20_000))?;
        let size = sockopt::socket_recv_buffer_size(&other);
        same("receive buffer", &size, &Ok(40_000))?;
        let found = sockopt::socket_timeout(&one, Timeout::Recv);
        same("time-out", &found, &Ok(time))?;
        let waited = recv(&one, &mut [0; 1][..], RecvFlags::empty()).map(drop);
        same("waiting", &waited, &Err(Errno::AGAIN))?;
    }
    Ok(())
}

fn watched(stage: &mut Stage) -> Result<(), String> {
    let ep = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(text("epoll_create"))?;
    let (one, other) = make(STREAM, SocketFlags::NONBLOCK)?;
    let data = epoll::EventData::new_u64(9);
    epoll::add(&ep, &one, data, epoll::EventFlags::IN).map_err(text("epoll_ctl"))?;
    let ready = || {
        let mut events = Vec::with_capacity(4);
        let buffer = rustix::buffer::spare_capacity(&mut events);
        let found = epoll::wait(&ep, buffer, Some(&Default::default()));
        found.map_err(text("epoll_wait"))
    };
    while stage.next()? {
        same("nothing", &ready()?, &0)?;
        put(&other, b"wake up")?;
        same("ready", &ready()?, &1)?;
        gets("what woke it", &one, Ok(b"wake up"))?;
    }
    Ok(())
}

/// Standard output is a socket whose other end another program has.
fn outside(command: &mut Command) -> Result<(), String> {
    let (one, other) = make(STREAM, SocketFlags::CLOEXEC)?;
    // The test holds it as long as it lives.
    std::mem::forget(other);
    command.stdout(Stdio::from(one));
    Ok(())
}

/// Both ends are the task's, and one of them another program's, too.
fn shared(stage: &mut Stage) -> Result<(), String> {
    let (one, other) = make(STREAM, SocketFlags::CLOEXEC)?;
    put(&one, b"for whom")?;
    sleeper(other.try_clone().map_err(text("dup"))?)?;
    idle(stage)?;
    gets("data", &other, Ok(b"for whom"))
}

/// A process that is no child of ours for long.
fn sleeper(stdin: OwnedFd) -> Result<(), String> {
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 3<&0; sleep 20 <&3 &"]);
    shell.stdin(stdin).stdout(Stdio::null());
    shell.status().map(drop).map_err(text("start sleep"))
}

fn idle(stage: &mut Stage) -> Result<(), String> {
    while stage.next()? {}
    Ok(())
}
