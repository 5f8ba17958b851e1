//! Connections of TCP: both ends in the task, or one of them outside.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};

use crate::harness::{Stage, Victim};
use crate::regular::text;
use crate::sys::same;

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("tcp-pair", pairs),
        Victim::new("tcp-full", full),
        Victim::new("tcp-half-closed", half_closed),
        Victim::new("tcp-ended", ended),
        Victim::new("tcp-options", options),
        Victim::new("tcp-outside", outside)
            .dump_args(&["--tcp-established"])
            .prepare(peer),
        Victim::new("tcp-outside-done", outside_done)
            .dump_args(&["--tcp-established"])
            .prepare(peer),
        Victim::new("tcp-close", closed)
            .only(&[crate::harness::Mode::Cycles])
            .dump_args(&["--tcp-close"])
            .prepare(peer),
        Victim::refused(
            "tcp-refused",
            "IPv4 stream socket, connected (127.0.0.1:",
            idle,
        )
        .prepare(peer),
        Victim::refused("tcp-urgent", "out-of-band data is queued", urgent),
    ]
}

const LIMIT: Option<Duration> = Some(Duration::from_secs(60));

type Pair = (TcpStream, TcpStream);

fn pair(address: &str) -> Result<Pair, String> {
    let listener = TcpListener::bind(address).map_err(text("bind"))?;
    joined(&listener)
}

fn joined(listener: &TcpListener) -> Result<Pair, String> {
    let mut to = listener.local_addr().map_err(text("getsockname"))?;
    if to.ip().is_unspecified() {
        // Through the dress of IPv6.
        to.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let one = TcpStream::connect(to).map_err(text("connect"))?;
    let (other, _) = listener.accept().map_err(text("accept"))?;
    for stream in [&one, &other] {
        stream
            .set_read_timeout(LIMIT)
            .map_err(text("SO_RCVTIMEO"))?;
        stream
            .set_write_timeout(LIMIT)
            .map_err(text("SO_SNDTIMEO"))?;
    }
    Ok((one, other))
}

fn puts(mut to: &TcpStream, bytes: &[u8]) -> Result<(), String> {
    to.write_all(bytes).map_err(text("write"))
}

fn gets(mut from: &TcpStream, expected: &[u8]) -> Result<(), String> {
    let mut bytes = vec![0; expected.len()];
    from.read_exact(&mut bytes).map_err(text("read"))?;
    let shown = |b: &[u8]| String::from_utf8_lossy(&b[..b.len().min(60)]).into_owned();
    match bytes == expected {
        true => Ok(()),
        false => Err(format!(
            "expected {}, got {}",
            shown(expected),
            shown(&bytes)
        )),
    }
}

fn nothing(from: &TcpStream) -> Result<(), String> {
    let got = recv(from, &mut [0; 1][..], RecvFlags::DONTWAIT).map(drop);
    same("queue", &got, &Err(Errno::AGAIN))
}

fn end(mut from: &TcpStream) -> Result<(), String> {
    let n = from.read(&mut [0; 1]).map_err(text("read"))?;
    same("end of file", &n, &0)
}

/// TCP_INFO's state, once it is what it should become.
fn becomes(stream: &TcpStream, expected: u8) -> Result<(), String> {
    let start = Instant::now();
    loop {
        let info = icecore::kernel::socket_options::get(stream, 6, 11);
        let state = info
            .map_err(text("TCP_INFO"))?
            .and_then(|i| i.first().copied());
        if state == Some(expected) {
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs(30) {
            return Err(format!("the state is {state:?}, not {expected}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// TCP_MAXSEG: how much goes into a segment.
fn segment(stream: &TcpStream) -> Result<u32, String> {
    let got = icecore::kernel::socket_options::get(stream, 6, 2);
    let value = got.map_err(text("TCP_MAXSEG"))?;
    let value = value.and_then(|v| v.first_chunk().copied());
    value.map(u32::from_ne_bytes).ok_or("no TCP_MAXSEG".into())
}

/// Of each family, with data both ways, beside what listens at their port.
fn pairs(stage: &mut Stage) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(text("bind"))?;
    let mut all = vec![joined(&listener)?, joined(&listener)?];
    for address in ["[::1]:0", "[::]:0", "127.0.0.9:0"] {
        all.push(pair(address)?);
    }
    for (one, other) in &all {
        puts(one, b"there, ")?;
        puts(other, b"back")?;
    }
    let names = |pair: &Pair| -> Result<[SocketAddr; 4], String> {
        let name = text("getsockname");
        let of = |s: &TcpStream| Ok((s.local_addr()?, s.peer_addr()?));
        let found: std::io::Result<_> = of(&pair.0).and_then(|a| Ok((a, of(&pair.1)?)));
        let ((a, b), (c, d)) = found.map_err(name)?;
        Ok([a, b, c, d])
    };
    let before: Vec<_> = all.iter().map(names).collect();
    let segment = segment(&all[0].0)?;
    while stage.next()? {
        same("names", &all.iter().map(names).collect(), &before)?;
        // Of 65495 bytes only 32767 can be asked for.
        let now = self::segment(&all[0].0)?;
        same("large segments", &(now > segment / 3), &true)?;
        for (one, other) in &all {
            puts(one, b"more")?;
            gets(other, b"there, more")?;
            gets(one, b"back")?;
            nothing(one)?;
            nothing(other)?;
            puts(one, b"there, ")?;
            puts(other, b"back")?;
        }
        all.push(joined(&listener)?);
        let (one, other) = all.pop().ok_or("none")?;
        puts(&one, b"new")?;
        gets(&other, b"new")?;
    }
    Ok(())
}

/// As much as goes in, in both directions.
fn full(stage: &mut Stage) -> Result<(), String> {
    let (one, other) = pair("127.0.0.1:0")?;
    for stream in [&one, &other] {
        stream.set_nonblocking(true).map_err(text("fcntl"))?;
    }
    let byte = |at: usize| (at * 7 + at / 251) as u8;
    let fill = |mut to: &TcpStream, mut at: usize| -> Result<usize, String> {
        loop {
            let piece: Vec<u8> = (at..at + 5000).map(byte).collect();
            match to.write(&piece) {
                Ok(n) => at += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(at),
                Err(e) => return Err(format!("write: {e}")),
            }
        }
    };
    let drain = |mut from: &TcpStream, mut at: usize, to: usize| -> Result<(), String> {
        let start = Instant::now();
        let mut room = vec![0; 1 << 16];
        while at < to {
            match from.read(&mut room) {
                Ok(0) => return Err("it was closed".to_owned()),
                Ok(n) => {
                    let wrong = room[..n]
                        .iter()
                        .enumerate()
                        .find(|(i, b)| **b != byte(at + i));
                    if let Some((i, _)) = wrong {
                        return Err(format!("byte {} is another", at + i));
                    }
                    at += n;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if start.elapsed() > Duration::from_secs(100) {
                        return Err(format!("nothing comes after byte {at} of {to}"));
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(e) => return Err(format!("read: {e}")),
            }
        }
        Ok(())
    };
    let mut there = (0, fill(&one, 0)?);
    let mut back = (0, fill(&other, 0)?);
    while stage.next()? {
        drain(&other, there.0, there.1)?;
        drain(&one, back.0, back.1)?;
        there = (there.1, fill(&one, there.1)?);
        back = (back.1, fill(&other, back.1)?);
    }
    Ok(())
}

const ESTABLISHED: u8 = 1;
const FIN_WAIT_2: u8 = 5;
const CLOSED: u8 = 7;
const CLOSE_WAIT: u8 = 8;

/// One end has said that it sends no more: with data left, without, and with
/// an answer on its way.
fn half_closed(stage: &mut Stage) -> Result<(), String> {
    let make = || -> Result<Pair, String> {
        let pair = pair("127.0.0.1:0")?;
        pair.0.shutdown(Shutdown::Write).map_err(text("shutdown"))?;
        becomes(&pair.0, FIN_WAIT_2)?;
        Ok(pair)
    };
    let (plain, reading) = (make()?, pair("127.0.0.1:0")?);
    let answered = pair("[::1]:0")?;
    puts(&answered.0, b"question")?;
    answered
        .0
        .shutdown(Shutdown::Write)
        .map_err(text("shutdown"))?;
    puts(&answered.1, b"answer")?;
    reading
        .0
        .shutdown(Shutdown::Read)
        .map_err(text("shutdown"))?;
    let mut first = true;
    while stage.next()? {
        becomes(&plain.0, FIN_WAIT_2)?;
        becomes(&plain.1, CLOSE_WAIT)?;
        end(&plain.1)?;
        puts(&plain.1, b"still open")?;
        gets(&plain.0, b"still open")?;
        let write = send(&plain.0, b"x", SendFlags::NOSIGNAL).map(drop);
        same("writing", &write, &Err(Errno::PIPE))?;
        if std::mem::take(&mut first) {
            gets(&answered.1, b"question")?;
            gets(&answered.0, b"answer")?;
        }
        becomes(&answered.1, CLOSE_WAIT)?;
        end(&answered.1)?;
        becomes(&reading.0, ESTABLISHED)?;
        end(&reading.0)?;
        puts(&reading.0, b"writes")?;
        gets(&reading.1, b"writes")?;
    }
    // And so they go on to their end.
    plain
        .1
        .shutdown(Shutdown::Write)
        .map_err(text("shutdown"))?;
    end(&plain.0)?;
    becomes(&plain.1, CLOSED)
}

/// Both have said so; what was received can still be read.
fn ended(stage: &mut Stage) -> Result<(), String> {
    let (one, other) = pair("127.0.0.1:0")?;
    puts(&other, b"one two three ")?;
    other.shutdown(Shutdown::Write).map_err(text("shutdown"))?;
    becomes(&one, CLOSE_WAIT)?;
    one.shutdown(Shutdown::Write).map_err(text("shutdown"))?;
    becomes(&one, CLOSED)?;
    drop(other);
    let mut words = [&b"one "[..], b"two ", b"three "].into_iter();
    while stage.next()? {
        match words.next() {
            Some(word) => gets(&one, word)?,
            None => end(&one)?,
        }
        let write = send(&one, b"x", SendFlags::NOSIGNAL).map(drop);
        same("writing", &write, &Err(Errno::PIPE))?;
    }
    Ok(())
}

fn options(stage: &mut Stage) -> Result<(), String> {
    let (one, other) = pair("127.0.0.1:0")?;
    one.set_nodelay(true).map_err(text("TCP_NODELAY"))?;
    sockopt::set_socket_keepalive(&one, true).map_err(text("SO_KEEPALIVE"))?;
    sockopt::set_tcp_keepidle(&one, Duration::from_secs(50)).map_err(text("TCP_KEEPIDLE"))?;
    sockopt::set_tcp_cork(&other, true).map_err(text("TCP_CORK"))?;
    sockopt::set_socket_recv_buffer_size(&one, 50_000).map_err(text("SO_RCVBUF"))?;
    puts(&other, b"held back")?;
    puts(&one, b"at once")?;
    let number = |s: &TcpStream, level, number| {
        let found = icecore::kernel::socket_options::number(s.as_fd(), level, number);
        found.map_err(text("getsockopt")).map(|v| v.unwrap_or(-1))
    };
    let shown = |s: &TcpStream| -> Result<Vec<i32>, String> {
        // Reuse, no delay, cork, keep alive, its idle time, buffer, its lock, MSS.
        let all = [(1, 2), (6, 1), (6, 3), (1, 9), (6, 4), (1, 8), (1, 72)];
        all.into_iter()
            .map(|(level, n)| number(s, level, n))
            .collect()
    };
    let before = [shown(&one)?, shown(&other)?];
    let mut first = true;
    while stage.next()? {
        let now = [shown(&one)?, shown(&other)?];
        // What the kernel may change it may have changed.
        same("options", &now[0], &before[0])?;
        same("options", &&now[1][..5], &&before[1][..5])?;
        if std::mem::take(&mut first) {
            gets(&other, b"at once")?;
            sockopt::set_tcp_cork(&other, false).map_err(text("TCP_CORK"))?;
            gets(&one, b"held back")?;
            sockopt::set_tcp_cork(&other, true).map_err(text("TCP_CORK"))?;
        }
    }
    Ok(())
}

/// A server outside: answers lines in capitals, a `later` after half a second,
/// and says its end when told `done` or when it sees ours.
const SERVER: &str = "
import os, signal, socket, sys, time
signal.alarm(240)
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
os.close(1)
stream, _ = listener.accept()
listener.close()
for line in stream.makefile('rb'):
    if line == b'later\\n':
        time.sleep(0.5)
    stream.sendall(line.upper())
    if line == b'done\\n':
        stream.shutdown(socket.SHUT_WR)
        while stream.recv(1000): pass
        break
try:
    stream.sendall(b'bye\\n')
except OSError:
    pass
";
const PORT: &str = "ICECORE_TEST_PORT";

fn peer(command: &mut Command) -> Result<(), String> {
    let mut server = Command::new("/usr/bin/python3")
        .args(["-c", SERVER])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(text("start python3"))?;
    let mut output = server.stdout.take().ok_or("no output")?;
    let mut port = String::new();
    output.read_to_string(&mut port).map_err(text("read"))?;
    command.env(PORT, port.trim());
    Ok(())
}

fn dial() -> Result<TcpStream, String> {
    let port = std::env::var(PORT).map_err(text("port"))?;
    let port: u16 = port.parse().map_err(text("port"))?;
    let stream = TcpStream::connect(("127.0.0.1", port)).map_err(text("connect"))?;
    stream
        .set_read_timeout(LIMIT)
        .map_err(text("SO_RCVTIMEO"))?;
    Ok(stream)
}

fn outside(stage: &mut Stage) -> Result<(), String> {
    let stream = dial()?;
    let long: Vec<u8> = [vec![b'x'; 200_000], vec![b'\n']].concat();
    puts(&stream, b"hello\n")?;
    gets(&stream, b"HEL")?;
    puts(&stream, b"later\n")?;
    while stage.next()? {
        gets(&stream, b"LO\nLATER\n")?;
        puts(&stream, &long)?;
        gets(&stream, &long.to_ascii_uppercase())?;
        puts(&stream, b"hello\n")?;
        gets(&stream, b"HEL")?;
        // What it says while nobody is there.
        puts(&stream, b"later\n")?;
    }
    gets(&stream, b"LO\nLATER\n")?;
    stream.shutdown(Shutdown::Write).map_err(text("shutdown"))?;
    gets(&stream, b"bye\n")?;
    end(&stream)
}

/// The server has said that it sends no more, and still listens.
fn outside_done(stage: &mut Stage) -> Result<(), String> {
    let stream = dial()?;
    puts(&stream, b"done\n")?;
    becomes(&stream, CLOSE_WAIT)?;
    let mut words = [&b"DO"[..], b"NE", b"\n"].into_iter();
    while stage.next()? {
        if let Some(word) = words.next() {
            gets(&stream, word)?;
        }
        becomes(&stream, CLOSE_WAIT)?;
        puts(&stream, b"I still speak")?;
    }
    Ok(())
}

fn closed(stage: &mut Stage) -> Result<(), String> {
    let stream = dial()?;
    puts(&stream, b"one\n")?;
    // All of it is there.
    let start = Instant::now();
    while rustix::io::ioctl_fionread(&stream).map_err(text("FIONREAD"))? < 4 {
        if start.elapsed() > Duration::from_secs(30) {
            return Err("no answer".to_owned());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut words = [&b"ON"[..], b"E\n"].into_iter();
    while stage.next()? {
        match words.next() {
            Some(word) => gets(&stream, word)?,
            None => end(&stream)?,
        }
        let write = send(&stream, b"x", SendFlags::NOSIGNAL).map(drop);
        same("writing", &write, &Err(Errno::PIPE))?;
    }
    Ok(())
}

fn idle(stage: &mut Stage) -> Result<(), String> {
    let stream = dial()?;
    while stage.next()? {}
    puts(&stream, b"hello\n")?;
    gets(&stream, b"HELLO\n")
}

fn urgent(stage: &mut Stage) -> Result<(), String> {
    let (one, other) = pair("127.0.0.1:0")?;
    send(&one, b"!", SendFlags::OOB).map_err(text("send"))?;
    while stage.next()? {}
    let mut byte = [0; 1];
    recv(&other, &mut byte[..], RecvFlags::OOB).map_err(text("recv"))?;
    same("urgent", &byte, b"!")
}
