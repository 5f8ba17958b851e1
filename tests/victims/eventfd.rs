//! eventfd(2).

use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, eventfd as create};
use rustix::io::Errno;

use crate::harness::{Stage, Victim};
use crate::regular::text;
use crate::sys::same;

pub(crate) fn victims() -> Vec<Victim> {
    vec![Victim::new("eventfd", eventfd)]
}

fn make(count: u64, flags: EventfdFlags) -> Result<OwnedFd, String> {
    let fd = create(0, flags | EventfdFlags::NONBLOCK).map_err(text("eventfd"))?;
    put(&fd, count).map(|()| fd)
}

fn put(fd: &OwnedFd, count: u64) -> Result<(), String> {
    rustix::io::write(fd, &count.to_ne_bytes()).map_err(text("write"))?;
    Ok(())
}

fn take(fd: &OwnedFd) -> Result<u64, Errno> {
    let mut count = [0; 8];
    rustix::io::read(fd, &mut count[..])?;
    Ok(u64::from_ne_bytes(count))
}

fn eventfd(stage: &mut Stage) -> Result<(), String> {
    let plain = make(5, EventfdFlags::CLOEXEC)?;
    let semaphore = make(1000, EventfdFlags::SEMAPHORE)?;
    let most = make(u64::MAX - 1, EventfdFlags::empty())?;
    let empty = make(0, EventfdFlags::empty())?;
    let mut left = 1000;
    while stage.next()? {
        same("count", &take(&plain), &Ok(5))?;
        put(&plain, 5)?;
        same("semaphore", &take(&semaphore), &Ok(1))?;
        left -= 1;
        same(
            "full",
            &rustix::io::write(&most, &1_u64.to_ne_bytes()),
            &Err(Errno::AGAIN),
        )?;
        same("count", &take(&most), &Ok(u64::MAX - 1))?;
        put(&most, u64::MAX - 1)?;
        same("count", &take(&empty), &Err(Errno::AGAIN))?;
    }
    for _ in 0..left {
        same("semaphore", &take(&semaphore), &Ok(1))?;
    }
    same("semaphore", &take(&semaphore), &Err(Errno::AGAIN))
}
