//! signalfd(2).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::event::epoll;

use crate::harness::{Stage, Victim};
use crate::regular::text;
use crate::sys::{at, call, same};

pub(crate) fn victims() -> Vec<Victim> {
    vec![Victim::new("signalfd", signalfd)]
}

const SIGUSR1: i32 = libc::SIGUSR1;

/// Blocked signals, one pending, read through a signalfd, which an epoll
/// instance watches.
fn signalfd(stage: &mut Stage) -> Result<(), String> {
    let mask = 1_u64 << (SIGUSR1 - 1) | 1 << (libc::SIGRTMIN() - 1);
    let block = [libc::SIG_BLOCK as u64, at(&mask), 0, 8];
    call("sigprocmask", libc::SYS_rt_sigprocmask, &block)?;
    let nonblock = libc::SFD_NONBLOCK as u64;
    let fd = call(
        "signalfd",
        libc::SYS_signalfd4,
        &[u64::MAX, at(&mask), 8, nonblock],
    )?;
    // SAFETY: the kernel has just given us this descriptor.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let ep = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(text("epoll"))?;
    let data = epoll::EventData::new_u64(1);
    epoll::add(&ep, &fd, data, epoll::EventFlags::IN).map_err(text("epoll_ctl"))?;
    raise()?;
    while stage.next()? {
        same("ready", &ready(&ep)?, &1)?;
        let mut info = [0; 128];
        rustix::io::read(&fd, &mut info[..]).map_err(text("read"))?;
        same("signal", &info[0], &(SIGUSR1 as u8))?;
        same("ready", &ready(&ep)?, &0)?;
        raise()?;
    }
    assert!(fd.as_raw_fd() >= 0);
    Ok(())
}

fn raise() -> Result<(), String> {
    let pid = u64::from(std::process::id());
    call("kill", libc::SYS_kill, &[pid, SIGUSR1 as u64]).map(drop)
}

fn ready(ep: &OwnedFd) -> Result<usize, String> {
    let none = epoll::Event {
        flags: epoll::EventFlags::empty(),
        data: epoll::EventData::new_u64(0),
    };
    let now = rustix::time::Timespec::default();
    epoll::wait(ep, &mut [none; 4][..], Some(&now)).map_err(text("epoll_wait"))
}
