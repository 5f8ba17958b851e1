//! pidfd_open(2).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};

use crate::harness::{Stage, Victim};
use crate::regular::text;
use crate::sys::{call, same, tid};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("pidfd", pidfd),
        Victim::refused("pidfd-of-another", "pidfd of pid 1 (", another),
    ]
}

const PIDFD_THREAD: u64 = libc::O_EXCL as u64;

fn open(pid: u32, flags: u64) -> Result<OwnedFd, String> {
    let fd = call("pidfd_open", libc::SYS_pidfd_open, &[pid.into(), flags])?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Of the process, twice, and of one of its threads.
fn pidfd(stage: &mut Stage) -> Result<(), String> {
    let own = open(std::process::id(), 0)?;
    let nonblock = open(std::process::id(), libc::O_NONBLOCK as u64)?;
    let (tell, told) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let _ = tell.send(tid());
        let _ = ended.recv();
    });
    let thread = open(told.recv().map_err(text("thread"))?, PIDFD_THREAD)?;
    // The lowest number is free, and one between is taken.
    let high = rustix::io::fcntl_dupfd_cloexec(&own, 60).map_err(text("dup"))?;
    while stage.next()? {
        for fd in [&own, &nonblock, &thread, &high] {
            let mut fds = [PollFd::new(fd, PollFlags::IN)];
            let now = Default::default();
            same(
                "ended",
                &poll(&mut fds, Some(&now)).map_err(text("poll"))?,
                &0,
            )?;
            let number = fd.as_raw_fd() as u64;
            call(
                "pidfd_send_signal",
                libc::SYS_pidfd_send_signal,
                &[number, 0, 0, 0],
            )?;
        }
    }
    drop(end);
    Ok(())
}

fn another(stage: &mut Stage) -> Result<(), String> {
    let fd = open(1, 0)?;
    while stage.next()? {}
    same("descriptor", &(fd.as_raw_fd() >= 0), &true)
}
