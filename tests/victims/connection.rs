//! Connections to the outside: the other end is a thread of the test runner,
//! which answers a while after it was asked, when the victim is asleep.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::harness::{Mode, Stage, Victim};
use crate::regular::text;
use crate::sys::{at, call, same};

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
        Victim::new("connection-tcp", socket)
            .prepare(tcp)
            .dump_args(&["--outside", "tcp=keep"]),
        Victim::new("connection-tty", terminal)
            .prepare(answering_terminal)
            .dump_args(&["--outside", "tty=keep"])
            .check(|seen| match seen.get("stat/tty") {
                Some("0") | None => Err("it has no controlling terminal".to_owned()),
                Some(_) => Ok(()),
            }),
        Victim::new("connection-closed-tcp", closed_tcp)
            .prepare(leaving_tcp)
            .dump_args(&["--outside", "close"])
            .only(&[Mode::Cycles]),
        Victim::new("connection-closed-tty", closed_terminal)
            .prepare(silent_terminal)
            .dump_args(&["--outside", "close"])
            .allow("fd/*")
            .only(&[Mode::Cycles]),
        Victim::new("connection-closed-stream", closed)
            .prepare(leaving_stream)
            .dump_args(&["--outside", "close"])
            .only(&[Mode::Cycles]),
        Victim::new("connection-closed-seqpacket", closed)
            .prepare(leaving_seqpacket)
            .dump_args(&["--outside", "close"])
            .only(&[Mode::Cycles]),
        Victim::new("connection-closed-dgram", closed_datagram)
            .prepare(datagram)
            .dump_args(&["--outside", "unix=close"])
            .only(&[Mode::Cycles]),
        Victim::new("connection-closed-pipes", closed_pipes)
            .prepare(leaving_pipes)
            .dump_args(&["--outside", "pipe=close"])
            .only(&[Mode::Cycles]),
        // The keeper has gone at once: there is no address.
        Victim::new("connection-auto-closed", closed)
            .prepare(leaving_stream)
            .dump_args(&["--outside", "auto", "--keep-for", "0"])
            .only(&[Mode::Cycles]),
        Victim::new("connection-reconnect", served)
            .prepare(serve)
            .dump_args(&["--outside", "reconnect"]),
        Victim::new("connection-auto-reconnect", served)
            .prepare(serve)
            .dump_args(&["--outside", "auto", "--keep-for", "0"]),
        Victim::new("connection-reconnect-at-restore", served)
            .prepare(serve)
            .dump_args(KEEP)
            .restore_args(&["--outside", "unix=reconnect"]),
        Victim::refused(
            "connection-no-address",
            "its other end has no address",
            socket,
        )
        .prepare(stream)
        .dump_args(&["--outside", "reconnect"]),
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
    while let Ok(n @ 1..) = rustix::io::read(&socket, &mut packet[..]) {
        packet[..n].reverse();
        thread::sleep(WHILE);
        if rustix::io::write(&socket, &packet[..n]).is_err() {
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
        rustix::io::write(socket, question.as_bytes()).map_err(text("ask"))?;
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
        let n = rustix::io::read(socket, &mut answer[..]).map_err(text("hear"))?;
        let backwards: Vec<u8> = question.bytes().rev().collect();
        same("answer", &answer[..n].to_vec(), &backwards)?;
        if !more {
            return Ok(());
        }
    }
}

const NAME: &str = "ICECORE_PEER";

/// A listener whose name the victim is told.
fn named_listener(command: &mut Command) -> Result<UnixListener, String> {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("icecore-test-{}-{n}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).map_err(text("name"))?;
    command.env(NAME, name);
    UnixListener::bind_addr(&address).map_err(text("bind"))
}

/// A server that can be connected to only once.
fn listen(command: &mut Command) -> Result<(), String> {
    let listener = named_listener(command)?;
    thread::spawn(move || {
        if let Ok((socket, _)) = listener.accept() {
            drop(listener);
            answer(socket.into());
        }
    });
    Ok(())
}

fn connect() -> Result<UnixStream, String> {
    let name = std::env::var(NAME).map_err(text("name"))?;
    let address = SocketAddr::from_abstract_name(name).map_err(text("name"))?;
    UnixStream::connect_addr(&address).map_err(text("connect"))
}

fn named(stage: &mut Stage) -> Result<(), String> {
    talk(stage, &connect()?.into())
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

/// Says something and stays silent from then on.
fn leave_words(command: &mut Command, kind: SocketType) -> Result<(), String> {
    let (family, how) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    let (ours, theirs) = rustix::net::socketpair(family, kind, how, None).map_err(text("pair"))?;
    rustix::net::send(&ours, WORDS, SendFlags::empty()).map_err(text("send"))?;
    command.stdin(Stdio::from(theirs));
    // Open for as long as the test runs.
    std::mem::forget(ours);
    Ok(())
}

const WORDS: &[u8] = b"last words";

fn leaving_stream(command: &mut Command) -> Result<(), String> {
    leave_words(command, SocketType::STREAM)
}

fn leaving_seqpacket(command: &mut Command) -> Result<(), String> {
    leave_words(command, SocketType::SEQPACKET)
}

/// SIGPIPE, blocked; whether it is pending, taken away.
struct PipeSignal(u64);

impl PipeSignal {
    fn block() -> Result<Self, String> {
        let set = 1_u64 << (libc::SIGPIPE - 1);
        let block = [libc::SIG_BLOCK as u64, at(&set), 0, 8];
        call("block SIGPIPE", libc::SYS_rt_sigprocmask, &block)?;
        Ok(Self(set))
    }

    fn expect(&self) -> Result<(), String> {
        let args = [at(&self.0), 0, at(&[0_u64; 2]), 8];
        call("SIGPIPE", libc::SYS_rt_sigtimedwait, &args).map(drop)
    }
}

/// What was said, then end of file, at once.
fn read_out(fd: impl AsFd, words: &[u8]) -> Result<(), String> {
    let expected: &[&[u8]] = if words.is_empty() {
        &[b""]
    } else {
        &[words, b""]
    };
    for expected in expected {
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        poll(&mut fds, Some(&Default::default())).map_err(text("poll"))?;
        same("ready", &fds[0].revents().is_empty(), &false)?;
        let mut bytes = [0; 64];
        let n = rustix::io::read(&fd, &mut bytes[..]).map_err(text("read"))?;
        same("words", &&bytes[..n], expected)?;
    }
    Ok(())
}

/// The other end is closed while the victim sleeps.
fn closed(stage: &mut Stage) -> Result<(), String> {
    let signal = PipeSignal::block()?;
    let mut words = WORDS;
    while stage.next()? {
        read_out(std::io::stdin(), words)?;
        words = b"";
        let sent = rustix::net::send(std::io::stdin(), b"x", SendFlags::empty());
        same("sent", &sent, &Err(Errno::PIPE))?;
        // A sequence of packets gives the error only.
        let kind = rustix::net::sockopt::socket_type(std::io::stdin());
        if kind == Ok(SocketType::STREAM) {
            signal.expect()?;
        }
    }
    Ok(())
}

fn closed_datagram(stage: &mut Stage) -> Result<(), String> {
    while stage.next()? {
        let mut bytes = [0; 64];
        let heard = rustix::net::recv(std::io::stdin(), &mut bytes[..], RecvFlags::DONTWAIT);
        same("heard", &heard.map(|(n, _)| n), &Err(Errno::AGAIN))?;
    }
    // It is told once; then there is no other end any more.
    for error in [Errno::CONNREFUSED, Errno::NOTCONN] {
        let sent = rustix::net::send(std::io::stdin(), b"x", SendFlags::empty());
        same("sent", &sent, &Err(error))?;
    }
    Ok(())
}

fn leaving_pipes(command: &mut Command) -> Result<(), String> {
    let make = || pipe_with(PipeFlags::CLOEXEC).map_err(text("pipe"));
    let ((from, out), (input, to)) = (make()?, make()?);
    rustix::io::write(&to, WORDS).map_err(text("write"))?;
    command.stdin(Stdio::from(input)).stdout(Stdio::from(out));
    std::mem::forget((from, to));
    Ok(())
}

fn closed_pipes(stage: &mut Stage) -> Result<(), String> {
    let signal = PipeSignal::block()?;
    let mut words = WORDS;
    while stage.next()? {
        read_out(std::io::stdin(), words)?;
        words = b"";
        let sent = rustix::io::write(std::io::stdout(), b"x");
        same("written", &sent, &Err(Errno::PIPE))?;
        signal.expect()?;
    }
    Ok(())
}

/// A server that may be connected to again and again.
fn serve(command: &mut Command) -> Result<(), String> {
    let listener = named_listener(command)?;
    thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            thread::spawn(move || answer(socket.into()));
        }
    });
    Ok(())
}

fn served(stage: &mut Stage) -> Result<(), String> {
    use rustix::net::sockopt;
    let socket = connect()?;
    rustix::io::ioctl_fionbio(&socket, true).map_err(text("non-blocking"))?;
    sockopt::set_socket_send_buffer_size(&socket, 20_000).map_err(text("buffer"))?;
    let buffer = sockopt::socket_send_buffer_size(&socket);
    while stage.next()? {
        rustix::net::send(&socket, b"abc", SendFlags::NOSIGNAL).map_err(text("ask"))?;
        let mut fds = [PollFd::new(&socket, PollFlags::IN)];
        poll(&mut fds, None).map_err(text("poll"))?;
        let mut answer = [0; 64];
        let (n, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())
            .map_err(text("hear"))?;
        same("answer", &&answer[..n], &&b"cba"[..])?;
        same(
            "send buffer",
            &sockopt::socket_send_buffer_size(&socket),
            &buffer,
        )?;
    }
    Ok(())
}

/// Both ends of a TCP connection.
fn tcp_pair() -> Result<(OwnedFd, OwnedFd), String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(text("bind"))?;
    let address = listener.local_addr().map_err(text("address"))?;
    let client = std::net::TcpStream::connect(address).map_err(text("connect"))?;
    let (server, _) = listener.accept().map_err(text("accept"))?;
    Ok((server.into(), client.into()))
}

fn tcp(command: &mut Command) -> Result<(), String> {
    let (server, client) = tcp_pair()?;
    command.stdin(Stdio::from(client));
    thread::spawn(move || answer(server));
    Ok(())
}

fn leaving_tcp(command: &mut Command) -> Result<(), String> {
    let (server, client) = tcp_pair()?;
    rustix::io::write(&server, WORDS).map_err(text("write"))?;
    command.stdin(Stdio::from(client));
    std::mem::forget(server);
    Ok(())
}

/// What was said, then end of file; the first write is refused by the other
/// side only when it arrives there.
fn closed_tcp(stage: &mut Stage) -> Result<(), String> {
    let signal = PipeSignal::block()?;
    if stage.next()? {
        read_out(std::io::stdin(), WORDS)?;
        rustix::io::write(std::io::stdin(), b"x").map_err(text("first write"))?;
        let input = std::io::stdin();
        let mut fds = [PollFd::new(&input, PollFlags::empty())];
        while !fds[0].revents().contains(PollFlags::HUP) {
            poll(&mut fds, None).map_err(text("poll"))?;
        }
        let sent = rustix::io::write(std::io::stdin(), b"x");
        same("sent", &sent, &Err(Errno::PIPE))?;
        signal.expect()?;
    }
    // What is left of it is no connection any more, and a dump's own affair.
    let null = std::fs::File::open("/dev/null").map_err(text("/dev/null"))?;
    call("dup3", libc::SYS_dup3, &[null.as_raw_fd() as u64, 0, 0])?;
    drop(null);
    while stage.next()? {}
    Ok(())
}

/// A terminal without any processing; its other end.
fn terminal_pair() -> Result<(OwnedFd, OwnedFd), String> {
    use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
    let how = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(how).map_err(text("open a terminal"))?;
    unlockpt(&master).map_err(text("unlock it"))?;
    let name = ptsname(&master, Vec::new()).map_err(text("its name"))?;
    let how = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
    let slave = rustix::fs::open(name.as_c_str(), how, rustix::fs::Mode::empty());
    let slave = slave.map_err(text("open its other end"))?;
    let mut raw = icecore::kernel::tty::settings(&slave).map_err(text("settings"))?;
    // c_iflag, c_oflag; c_lflag.
    raw[..8].fill(0);
    raw[12..16].fill(0);
    icecore::kernel::tty::set_settings(&slave, &raw).map_err(text("settings"))?;
    Ok((master, slave))
}

fn answering_terminal(command: &mut Command) -> Result<(), String> {
    let (master, slave) = terminal_pair()?;
    command.stdin(Stdio::from(slave));
    thread::spawn(move || answer(master));
    Ok(())
}

fn silent_terminal(command: &mut Command) -> Result<(), String> {
    let (master, slave) = terminal_pair()?;
    command.stdin(Stdio::from(slave));
    std::mem::forget(master);
    Ok(())
}

/// Standard input is the controlling terminal.
fn terminal(stage: &mut Stage) -> Result<(), String> {
    let take = [0, libc::TIOCSCTTY, 0];
    call("take the terminal", libc::SYS_ioctl, &take)?;
    socket(stage)
}

fn closed_terminal(stage: &mut Stage) -> Result<(), String> {
    while stage.next()? {
        let n = rustix::io::read(std::io::stdin(), &mut [0; 8][..]);
        same("end of file", &n, &Ok(0))?;
        let written = rustix::io::write(std::io::stdin(), b"x");
        same("written", &written, &Err(Errno::IO))?;
    }
    Ok(())
}
