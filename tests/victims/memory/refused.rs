//! Areas that cannot be carried: refused by name, and no harm done.

use super::area::{Area, PAGE, PRIVATE, RW, done, ensure, syscall};
use crate::harness::{Stage, Victim};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::refused("userfaultfd_area", "userfaultfd", userfaultfd),
        Victim::refused("aio_ring", "asynchronous I/O ring", aio_ring),
        Victim::refused("io_uring_ring", "anon_inode:[io_uring]", io_uring_ring)
            .needs(has_io_uring),
        Victim::refused("secretmem", "memfd_secret", secretmem).needs(has_secretmem),
    ]
}

fn userfaultfd(stage: &mut Stage) -> Result<(), String> {
    const UFFDIO_API: u64 = 0xc018_aa3f;
    const UFFDIO_REGISTER: u64 = 0xc020_aa00;
    const UFFD_USER_MODE_ONLY: u64 = 1;
    let flags = libc::O_CLOEXEC as u64 | UFFD_USER_MODE_ONLY;
    let fd = syscall("userfaultfd", libc::SYS_userfaultfd, [flags, 0, 0, 0, 0])?;
    let mut api = [0xaa_u64, 0, 0];
    let args = [fd, UFFDIO_API, api.as_mut_ptr() as u64, 0, 0];
    syscall("UFFDIO_API", libc::SYS_ioctl, args)?;
    let area = Area::new(4, RW, PRIVATE)?;
    area.fill(1);
    let mut register = [area.start(), area.len as u64, 1, 0];
    let args = [fd, UFFDIO_REGISTER, register.as_mut_ptr() as u64, 0, 0];
    syscall("UFFDIO_REGISTER", libc::SYS_ioctl, args)?;
    while stage.next()? {
        area.check_all(1)?;
    }
    Ok(())
}

fn aio_ring(stage: &mut Stage) -> Result<(), String> {
    let mut context = 0_u64;
    let args = [8, (&raw mut context) as u64, 0, 0, 0];
    syscall("io_setup", libc::SYS_io_setup, args)?;
    while stage.next()? {
        ensure(context != 0, "no context")?;
    }
    Ok(())
}

fn has_secretmem() -> Result<(), String> {
    let fd = syscall("memfd_secret", libc::SYS_memfd_secret, [0; 5])?;
    // SAFETY: the descriptor is new and unused.
    done("close", unsafe { libc::close(fd as i32) })
}

fn secretmem(stage: &mut Stage) -> Result<(), String> {
    let fd = syscall("memfd_secret", libc::SYS_memfd_secret, [0; 5])? as i32;
    // SAFETY: numbers only.
    done("ftruncate", unsafe { libc::ftruncate(fd, PAGE as i64) })?;
    let none = std::ptr::null_mut();
    let area = Area::map(none, PAGE, RW, libc::MAP_SHARED, fd, 0)?;
    // SAFETY: the descriptor is not used any more.
    done("close", unsafe { libc::close(fd) })?;
    area.fill(1);
    while stage.next()? {
        area.check_all(1)?;
    }
    Ok(())
}

fn io_uring() -> Result<i32, String> {
    let mut params = [0_u64; 15];
    let args = [4, params.as_mut_ptr() as u64, 0, 0, 0];
    Ok(syscall("io_uring_setup", libc::SYS_io_uring_setup, args)? as i32)
}

fn has_io_uring() -> Result<(), String> {
    let fd = io_uring()?;
    // SAFETY: the descriptor is new and unused.
    done("close", unsafe { libc::close(fd) })
}

/// Only mapped: its descriptor is closed.
fn io_uring_ring(stage: &mut Stage) -> Result<(), String> {
    let fd = io_uring()?;
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
    let ring = Area::map(std::ptr::null_mut(), PAGE, RW, flags, fd, 0)?;
    // SAFETY: the descriptor is not used any more.
    done("close", unsafe { libc::close(fd) })?;
    while stage.next()? {
        ensure(!ring.read(0).is_empty(), "no ring")?;
    }
    Ok(())
}
