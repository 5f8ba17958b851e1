//! Connections to the outside: the other end is a thread of the test runner,
//! which answers a while after it was asked, when the victim is asleep.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::event::epoll;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::harness::{Stage, Victim};
use crate::regular::text;
use crate::sys::same;

const KEEP: &[&str] = &["--outside", "keep"];

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("connection-stream", socket)
            .prepare(stream)
            .dump_args(KEEP),
        Victim::new("connection-dgram", socket)
            .prepare(datagram)
            .dump_args(KEEP),
        Victim::new("connection-seqpacket", socket)
            .prepare(seqpacket)
            .dump_args(KEEP),
        Victim::new("connection-named", named)
            .prepare(listen)
            .dump_args(&["--outside", "unix=keep"]),
        Victim::new("connection-named-auto", named)
            .prepare(listen)
            .dump_args(&["--ext-unix-sk"]),
        Victim::new("connection-pipes", pipes)
            .prepare(answering_pipes)
            .dump_args(KEEP),
        Victim::refused(
            "connection-refused",
            "its other end is held by pid ",
            socket,
        )
        .prepare(stream),
        Victim::refused("connection-refused-option", "--outside unix=keep", socket).prepare(stream),
        Victim::refused("connection-refused-last", "--outside unix=keep", socket)
            .prepare(stream)
            .dump_args(&["--outside", "keep", "--outside", "unix=refuse"]),
    ]
}

/// How long an answer takes: a dump is faster.
const WHILE: Duration = Duration::from_millis(300);

/// Answers each packet with itself backwards, until the other end is closed.
fn answer(socket: OwnedFd) {
    let mut packet = [0; 64];
    while let Ok((n @ 1.., _)) = rustix::net::recv(&socket, &mut packet[..], RecvFlags::empty()) {
        packet[..n].reverse();
        thread::sleep(WHILE);
        if rustix::net::send(&socket, &packet[..n], SendFlags::NOSIGNAL).is_err() {
            break;
        }
    }
}

fn pair(command: &mut Command, kind: SocketType) -> Result<(), String> {
    let (family, how) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    let (ours, theirs) = rustix::net::socketpair(family, kind, how, None).map_err(text("pair"))?;
    command.stdin(Stdio::from(theirs));
    thread::spawn(move || answer(ours));
    Ok(())
}

fn stream(command: &mut Command) -> Result<(), String> {
    pair(command, SocketType::STREAM)
}

fn datagram(command: &mut Command) -> Result<(), String> {
    pair(command, SocketType::DGRAM)
}

fn seqpacket(command: &mut Command) -> Result<(), String> {
    pair(command, SocketType::SEQPACKET)
}

/// Standard input is the connection.
fn socket(stage: &mut Stage) -> Result<(), String> {
    let socket = rustix::io::dup(std::io::stdin()).map_err(text("dup"))?;
    talk(stage, &socket)
}

/// Asks before each sleep, and is told by epoll that there is an answer
/// afterwards.
fn talk(stage: &mut Stage, socket: &OwnedFd) -> Result<(), String> {
    let watch = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(text("epoll"))?;
    let data = epoll::EventData::new_u64(7);
    epoll::add(&watch, socket, data, epoll::EventFlags::IN).map_err(text("watch"))?;
    loop {
        let question = format!("question {}", stage.round());
        let how = SendFlags::NOSIGNAL;
        rustix::net::send(socket, question.as_bytes(), how).map_err(text("ask"))?;
        let more = stage.next()?;
        let mut events = Vec::with_capacity(4);
        let limit = rustix::time::Timespec {
            tv_sec: 20,
            tv_nsec: 0,
        };
        epoll::wait(
            &watch,
            rustix::buffer::spare_capacity(&mut events),
            Some(&limit),
        )
        .map_err(text("wait"))?;
        same("events", &events.len(), &1)?;
        let mut answer = [0; 64];
        let (n, _) =
            rustix::net::recv(socket, &mut answer[..], RecvFlags::empty()).map_err(text("hear"))?;
        let backwards: Vec<u8> = question.bytes().rev().collect();
        same("answer", &answer[..n].to_vec(), &backwards)?;
        if !more {
            return Ok(());
        }
    }
}

const NAME: &str = "ICECORE_PEER";

/// A server with a name; it must be connected to only once.
fn listen(command: &mut Command) -> Result<(), String> {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("icecore-test-{}-{n}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).map_err(text("name"))?;
    let listener = UnixListener::bind_addr(&address).map_err(text("bind"))?;
    command.env(NAME, name);
    thread::spawn(move || {
        if let Ok((socket, _)) = listener.accept() {
            drop(listener);
            answer(socket.into());
        }
    });
    Ok(())
}

fn named(stage: &mut Stage) -> Result<(), String> {
    let name = std::env::var(NAME).map_err(text("name"))?;
    let address = SocketAddr::from_abstract_name(name).map_err(text("name"))?;
    let socket = UnixStream::connect_addr(&address).map_err(text("connect"))?;
    talk(stage, &socket.into())
}

/// In and out are pipes to somebody who passes everything on.
fn answering_pipes(command: &mut Command) -> Result<(), String> {
    let make = || pipe_with(PipeFlags::CLOEXEC).map_err(text("pipe"));
    let ((from, out), (input, to)) = (make()?, make()?);
    command.stdin(Stdio::from(input)).stdout(Stdio::from(out));
    thread::spawn(move || {
        let (mut from, mut to) = (std::fs::File::from(from), std::fs::File::from(to));
        let mut bytes = [0; 64];
        while let Ok(n @ 1..) = from.read(&mut bytes) {
            thread::sleep(WHILE);
            if to.write_all(&bytes[..n]).is_err() {
                break;
            }
        }
    });
    Ok(())
}

fn pipes(stage: &mut Stage) -> Result<(), String> {
    loop {
        let line = format!("line {}", stage.round());
        rustix::io::write(std::io::stdout(), line.as_bytes()).map_err(text("write"))?;
        let more = stage.next()?;
        let mut bytes = [0; 64];
        let n = rustix::io::read(std::io::stdin(), &mut bytes[..]).map_err(text("read"))?;
        same("line", &bytes[..n].to_vec(), &line.into_bytes())?;
        if !more {
            return Ok(());
        }
    }
}
