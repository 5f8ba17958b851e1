//! Descriptors that were sent over AF_UNIX sockets and not received yet.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, recvmsg, sendmsg,
};

use crate::harness::{Stage, Victim};
use crate::regular::text;
use crate::sys::same;
use crate::unix::{DGRAM, SEQPACKET, STREAM, gets, make, put, take};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("unix-rights", rights),
        Victim::new("unix-rights-only-there", only_there),
        Victim::new("unix-rights-nested", nested),
        Victim::new("unix-rights-in-a-circle", circle),
        Victim::refused("unix-rights-pidfd", "a pidfd is under way", of_process),
    ]
}

const CLOEXEC: SocketFlags = SocketFlags::CLOEXEC;

fn give(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), String> {
    let mut space = [MaybeUninit::uninit(); 256];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(fds));
    let data = [IoSlice::new(bytes)];
    let sent =
        sendmsg(socket, &data, &mut control, SendFlags::DONTWAIT).map_err(text("sendmsg"))?;
    same("bytes sent", &sent, &bytes.len())
}

fn receive(socket: impl AsFd) -> Result<(Vec<u8>, Vec<OwnedFd>), String> {
    let mut bytes = [0; 1000];
    let mut space = [MaybeUninit::uninit(); 256];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let how = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let n = recvmsg(socket, &mut parts, &mut control, how).map_err(text("recvmsg"))?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((bytes[..n.bytes].to_vec(), fds))
}

/// In the middle of a stream and with a datagram; what is held as well.
fn rights(stage: &mut Stage) -> Result<(), String> {
    let path = stage.dir().join("file");
    let mut file = File::options();
    let file = file.read(true).write(true).create(true).truncate(true);
    let mut file = file.open(&path).map_err(text("open"))?;
    file.write_all(b"0123456789").map_err(text("write"))?;
    let eventfd = rustix::event::eventfd(5, rustix::event::EventfdFlags::CLOEXEC);
    let eventfd = eventfd.map_err(text("eventfd"))?;
    let (stream, datagram) = (make(STREAM, CLOEXEC)?, make(DGRAM, CLOEXEC)?);
    loop {
        file.seek(SeekFrom::Start(3)).map_err(text("seek"))?;
        put(&stream.0, b"before ")?;
        give(&stream.0, b"header", &[file.as_fd(), eventfd.as_fd()])?;
        give(&stream.0, b"more", &[file.as_fd()])?;
        put(&stream.0, b" after")?;
        put(&datagram.0, b"first")?;
        give(&datagram.0, b"", &[stage_dir(stage)?.as_fd()])?;
        if !stage.next()? {
            return Ok(());
        }
        // Who reads up to here loses nothing.
        same("before", &take(&stream.1, 7), &Ok(b"before ".to_vec()))?;
        let (bytes, fds) = receive(&stream.1)?;
        same("header", &bytes[..], &b"header"[..])?;
        same("descriptors", &fds.len(), &2)?;
        let mut same_file = File::from(fds.into_iter().next().ok_or("no file")?);
        let mut byte = [0; 1];
        same_file.read_exact(&mut byte).map_err(text("read"))?;
        same("byte", &byte, b"3")?;
        let position = file.stream_position().map_err(text("seek"))?;
        same("position in common", &position, &4)?;
        let (bytes, fds) = receive(&stream.1)?;
        same("more", &(&bytes[..], fds.len()), &(&b"more"[..], 1))?;
        gets("after", &stream.1, Ok(b" after"))?;
        gets("datagram", &datagram.1, Ok(b"first"))?;
        let (_, fds) = receive(&datagram.1)?;
        let dir = fds.first().ok_or("no directory")?;
        let found = rustix::fs::statat(dir, "file", rustix::fs::AtFlags::empty());
        found.map(drop).map_err(text("stat"))?;
    }
}

fn stage_dir(stage: &Stage) -> Result<File, String> {
    File::open(stage.dir()).map_err(text("open"))
}

/// Both ends of a pipe with data in it, a socket with its name; nobody has them.
fn only_there(stage: &mut Stage) -> Result<(), String> {
    let (one, other) = make(SEQPACKET, CLOEXEC)?;
    loop {
        let (read, write) = rustix::pipe::pipe().map_err(text("pipe"))?;
        rustix::io::write(&write, b"in the pipe").map_err(text("write"))?;
        let memfd = rustix::fs::memfd_create("sent", rustix::fs::MemfdFlags::CLOEXEC);
        let mut memfd = File::from(memfd.map_err(text("memfd"))?);
        memfd.write_all(b"in memory").map_err(text("write"))?;
        give(&one, b"all", &[read.as_fd(), write.as_fd(), memfd.as_fd()])?;
        drop((read, write, memfd));
        if !stage.next()? {
            return Ok(());
        }
        let (bytes, fds) = receive(&other)?;
        same("data", &bytes[..], &b"all"[..])?;
        let [read, write, memfd]: [OwnedFd; 3] = fds.try_into().map_err(|_| "descriptors")?;
        rustix::io::write(&write, b", still").map_err(text("write"))?;
        let mut bytes = [0; 100];
        let n = rustix::io::read(&read, &mut bytes[..]).map_err(text("read"))?;
        same("pipe", &bytes[..n], &b"in the pipe, still"[..])?;
        let mut memfd = File::from(memfd);
        memfd.rewind().map_err(text("seek"))?;
        let mut data = Vec::new();
        memfd.read_to_end(&mut data).map_err(text("read"))?;
        same("memory", &data[..], &b"in memory"[..])?;
    }
}

/// A socket under way with sockets under way in it.
fn nested(stage: &mut Stage) -> Result<(), String> {
    let (one, other) = make(STREAM, CLOEXEC)?;
    loop {
        let (inner, carrier) = make(DGRAM, CLOEXEC)?;
        let (innermost, last) = make(STREAM, CLOEXEC)?;
        put(&innermost, b"at the bottom")?;
        give(&inner, b"second", &[last.as_fd(), innermost.as_fd()])?;
        drop((last, innermost));
        give(&one, b"first", &[carrier.as_fd()])?;
        drop((carrier, inner));
        if !stage.next()? {
            return Ok(());
        }
        let (_, mut fds) = receive(&other)?;
        let carrier = fds.pop().ok_or("no socket")?;
        let (bytes, fds) = receive(&carrier)?;
        same("second", &bytes[..], &b"second"[..])?;
        let [last, innermost]: [OwnedFd; 2] = fds.try_into().map_err(|_| "descriptors")?;
        gets("bottom", &last, Ok(b"at the bottom"))?;
        put(&last, b"up")?;
        gets("up", &innermost, Ok(b"up"))?;
        gets("no more", &carrier, Err(Errno::AGAIN))?;
    }
}

/// A socket in its own queue.
fn circle(stage: &mut Stage) -> Result<(), String> {
    let (one, other) = make(STREAM, CLOEXEC)?;
    loop {
        give(&one, b"itself", &[other.as_fd(), one.as_fd()])?;
        if !stage.next()? {
            return Ok(());
        }
        let (_, fds) = receive(&other)?;
        put(&fds[1], b"round")?;
        gets("round", &fds[0], Ok(b"round"))?;
    }
}

fn of_process(stage: &mut Stage) -> Result<(), String> {
    let (one, other) = make(STREAM, CLOEXEC)?;
    let own = rustix::process::getpid();
    let pidfd = rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty());
    give(&one, b"x", &[pidfd.map_err(text("pidfd"))?.as_fd()])?;
    while stage.next()? {}
    same("descriptors", &receive(&other)?.1.len(), &1)
}
