//! Pipes and FIFOs.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode as Bits, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

use crate::harness::{Stage, Victim};
use crate::regular::{open_at, text};
use crate::sys::{call, same};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("pipe", pipe),
        Victim::new("pipe-packets", packets),
        Victim::new("pipe-half-closed", half_closed),
        Victim::new("pipe-fifo", fifo),
        // What a thread that has ended had blocked nobody can tell.
        Victim::new("pipe-leaderless", leaderless)
            .allow("status/SigBlk")
            .allow("thread/*/status/SigBlk"),
        Victim::refused("pipe-outside", "it is also held by pid ", idle).prepare(outside),
        Victim::refused("pipe-outside-option", "--outside pipe=", idle).prepare(outside),
    ]
}

fn make(flags: PipeFlags) -> Result<(OwnedFd, OwnedFd), String> {
    pipe_with(flags).map_err(text("pipe"))
}

fn put(fd: impl AsFd, bytes: &[u8]) -> Result<(), String> {
    let written = rustix::io::write(fd, bytes).map_err(text("write"))?;
    same("bytes written", &written, &bytes.len())
}

fn take(fd: impl AsFd, len: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; len];
    let n = rustix::io::read(fd, &mut bytes[..]).map_err(text("read"))?;
    bytes.truncate(n);
    Ok(bytes)
}

fn events(fd: impl AsFd) -> Result<PollFlags, String> {
    let mut fds = [PollFd::new(&fd, PollFlags::IN | PollFlags::OUT)];
    poll(&mut fds, Some(&Default::default())).map_err(text("poll"))?;
    Ok(fds[0].revents())
}

/// Empty, half full, full, a megabyte; a third description of a pipe.
fn pipe(stage: &mut Stage) -> Result<(), String> {
    let (empty, some) = (make(PipeFlags::NONBLOCK)?, make(PipeFlags::CLOEXEC)?);
    let (full, large) = (make(PipeFlags::NONBLOCK)?, make(PipeFlags::NONBLOCK)?);
    fcntl_setpipe_size(&large.1, 1 << 20).map_err(text("F_SETPIPE_SZ"))?;
    let data: Vec<u8> = (0..1 << 20).map(|i| (i / 4096 + i) as u8).collect();
    put(&full.1, &data[..65536])?;
    put(&large.1, &data)?;
    put(&some.1, b"queued")?;
    let third = format!("/proc/thread-self/fd/{}", some.1.as_raw_fd());
    let third = open_at(Path::new(&third), OFlags::RDWR | OFlags::NONBLOCK)?;
    while stage.next()? {
        same(
            "empty",
            &rustix::io::read(&empty.0, &mut [0; 1][..]),
            &Err(Errno::AGAIN),
        )?;
        same(
            "full",
            &rustix::io::write(&full.1, &[0; 1][..]),
            &Err(Errno::AGAIN),
        )?;
        same("contents", &(take(&full.0, 65536)? == data[..65536]), &true)?;
        put(&full.1, &data[..65536])?;
        let size = fcntl_getpipe_size(&large.0).map_err(text("F_GETPIPE_SZ"))?;
        same("capacity", &size, &(1 << 20))?;
        same("large contents", &(take(&large.0, 1 << 20)? == data), &true)?;
        put(&large.1, &data)?;
        put(&third, b", more")?;
        same("queue", &take(&some.0, 100)?, &b"queued, more".to_vec())?;
        put(&some.1, b"queued")?;
    }
    Ok(())
}

fn packets(stage: &mut Stage) -> Result<(), String> {
    let (reader, writer) = make(PipeFlags::NONBLOCK | PipeFlags::DIRECT)?;
    let (one_reader, one_writer) = make(PipeFlags::NONBLOCK | PipeFlags::DIRECT)?;
    let many: Vec<Vec<u8>> = (1..=15_usize).map(|n| vec![n as u8; n * 100]).collect();
    let fill = || {
        many.iter().try_for_each(|packet| put(&writer, packet))?;
        put(&one_writer, b"only one")
    };
    fill()?;
    while stage.next()? {
        for packet in &many {
            same("packet", &take(&reader, 5000)?, packet)?;
        }
        // What of a packet is not read is dropped.
        same("packet", &take(&one_reader, 4)?, &b"only".to_vec())?;
        same(
            "rest",
            &rustix::io::read(&one_reader, &mut [0; 9][..]),
            &Err(Errno::AGAIN),
        )?;
        fill()?;
    }
    Ok(())
}

/// Ends whose other end is closed; a closed reader, a closed writer with data.
fn half_closed(stage: &mut Stage) -> Result<(), String> {
    let (reader, writer) = make(PipeFlags::CLOEXEC)?;
    put(&writer, b"last words, to be read bit by bit")?;
    drop(writer);
    let (drained, closed) = make(PipeFlags::CLOEXEC)?;
    drop(closed);
    let (gone, lonely) = make(PipeFlags::CLOEXEC)?;
    put(&lonely, b"never read")?;
    drop(gone);
    for word in [&b"last"[..], b" wor", b"ds, "] {
        if !stage.next()? {
            return Ok(());
        }
        same("last words", &take(&reader, 4)?, &word.to_vec())?;
        same("hang-up", &events(&reader)?.contains(PollFlags::HUP), &true)?;
        same("end of file", &take(&drained, 4)?, &vec![])?;
        same("error", &events(&lonely)?.contains(PollFlags::ERR), &true)?;
        same(
            "writing",
            &rustix::io::write(&lonely, b"x"),
            &Err(Errno::PIPE),
        )?;
    }
    while stage.next()? {}
    Ok(())
}

/// FIFOs: open for reading and writing at once, and by two descriptions.
fn fifo(stage: &mut Stage) -> Result<(), String> {
    let make = |name: &str| {
        let path = stage.dir().join(name);
        let bits = Bits::from_raw_mode(0o600);
        let made = rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, bits, 0);
        made.map(|()| path).map_err(text("mknod"))
    };
    let both = open_at(&make("both")?, OFlags::RDWR)?;
    let path = make("two")?;
    let reader = open_at(&path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let writer = open_at(&path, OFlags::WRONLY | OFlags::NONBLOCK)?;
    put(&both, b"both ways")?;
    put(&writer, b"one way")?;
    while stage.next()? {
        same("queue", &take(&both, 100)?, &b"both ways".to_vec())?;
        put(&both, b"both ways")?;
        same("queue", &take(&reader, 100)?, &b"one way".to_vec())?;
        same(
            "empty",
            &rustix::io::read(&reader, &mut [0; 1][..]),
            &Err(Errno::AGAIN),
        )?;
        put(&writer, b"one way")?;
    }
    Ok(())
}

/// The first thread has exited: `/proc/PID/fd` is empty, and so is what a
/// pidfd of the process leads to.
fn leaderless(stage: &mut Stage) -> Result<(), String> {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let code = match pipe(stage) {
                Ok(()) => 0,
                Err(e) => {
                    eprintln!("victim pipe-leaderless: {e}");
                    1
                }
            };
            std::process::exit(code)
        });
        call("exit", libc::SYS_exit, &[0]).map(drop)
    })
}

/// Standard output is a pipe into another program.
fn outside(command: &mut Command) -> Result<(), String> {
    let (reader, writer) = make(PipeFlags::CLOEXEC)?;
    // The test holds it as long as it lives.
    std::mem::forget(reader);
    command.stdout(Stdio::from(writer));
    Ok(())
}

fn idle(stage: &mut Stage) -> Result<(), String> {
    while stage.next()? {}
    Ok(())
}
