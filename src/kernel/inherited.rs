//! Descriptors that this process was started with.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Lets no program started from now on inherit any descriptor of this process
/// but the standard streams.
///
/// # Errors
/// What close_range(2) says: ENOSYS or EINVAL before Linux 5.11.
pub fn keep_from_children() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: only marks descriptors; none is closed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            CLOSE_RANGE_CLOEXEC,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether descriptor `fd` of this process is open, and not one of the standard
/// streams.
///
/// # Errors
/// EBADF where that is not so.
pub fn is_open(fd: u32) -> io::Result<()> {
    let number = RawFd::try_from(fd)
        .ok()
        .filter(|&fd| fd > libc::STDERR_FILENO);
    // SAFETY: F_GETFD only looks whether the descriptor is open.
    let open = number.is_some_and(|fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0);
    match open {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::EBADF)),
    }
}

/// A descriptor of our own for what descriptor `fd` of this process is, which
/// may be one of the standard streams.
///
/// # Errors
/// EBADF where it is not open.
pub fn duplicate(fd: u32) -> io::Result<OwnedFd> {
    let number = RawFd::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: duplicates a descriptor if it is open, which nothing else sees.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    match copy {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just given us this descriptor.
        copy => Ok(unsafe { OwnedFd::from_raw_fd(copy) }),
    }
}

/// Writes `bytes` to descriptor `fd` of this process and closes it.
///
/// # Errors
/// EBADF where it is not open, or is one of the standard streams; otherwise
/// what write(2) says.
pub fn write_and_close(fd: u32, bytes: &[u8]) -> io::Result<()> {
    is_open(fd)?;
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the descriptor is open and was handed to us to be written to and
    // closed; no other part of the program is told its number.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes)
}
