//! Calls that make or set up descriptors and have no wrapper elsewhere.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// `_IOW('I', 0, __s32)`.
const INOTIFY_IOC_SETNEXTWD: libc::c_ulong = 0x4004_4900;

/// `TFD_IOC_SET_TICKS`, `_IOW('T', 0, __u64)`.
pub const TFD_IOC_SET_TICKS: u64 = 0x4008_5400;

/// A new signalfd for the signals in `mask`; `flags` are SFD_*.
pub fn signalfd(mask: u64, flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads eight bytes at `mask`.
    let fd = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const mask, 8, flags) };
    match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just given us this descriptor.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
    }
}

/// The number that the next watch of an inotify instance gets.
/// Needs CONFIG_CHECKPOINT_RESTORE.
pub fn set_next_watch(inotify: impl AsFd, wd: i32) -> io::Result<()> {
    // SAFETY: the argument of this ioctl is a number.
    let ret = unsafe { libc::ioctl(inotify.as_fd().as_raw_fd(), INOTIFY_IOC_SETNEXTWD, wd) };
    match ret {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::inotify;

    use super::*;

    #[test]
    fn a_watch_gets_its_number() {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        set_next_watch(&fd, 40).unwrap();
        let wd = inotify::add_watch(&fd, "/tmp", inotify::WatchFlags::CREATE);
        assert_eq!(wd.unwrap(), 40);
        assert!(set_next_watch(&fd, 0).is_err());
    }

    #[test]
    fn a_signalfd_reads_its_signals() {
        let fd = signalfd(0x10, libc::SFD_CLOEXEC as u32).unwrap();
        let info = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
        let info = crate::kernel::fdinfo::read(info.as_ref()).unwrap();
        assert_eq!(info.sigmask, Some(0x10));
    }
}
