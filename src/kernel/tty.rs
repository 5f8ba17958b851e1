//! Terminals: their settings, sessions and pairs.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Bytes of `struct termios2`.
const TERMIOS2: usize = 44;

/// Its settings, as `struct termios2`.
pub fn settings(tty: impl AsFd) -> io::Result<Vec<u8>> {
    let mut termios = vec![0; TERMIOS2];
    // SAFETY: the kernel writes a `struct termios2` to as many bytes.
    let ret = unsafe { libc::ioctl(tty.as_fd().as_raw_fd(), libc::TCGETS2, termios.as_mut_ptr()) };
    result(ret).map(|_| termios)
}

/// Changes its settings at once.
pub fn set_settings(tty: impl AsFd, termios: &[u8]) -> io::Result<()> {
    if termios.len() != TERMIOS2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the kernel reads a `struct termios2` of as many bytes.
    let ret = unsafe { libc::ioctl(tty.as_fd().as_raw_fd(), libc::TCSETS2, termios.as_ptr()) };
    result(ret).map(drop)
}

/// Whether it is a terminal.
pub fn is_one(fd: impl AsFd) -> bool {
    settings(fd).is_ok()
}

/// A terminal whose other end has been closed: it hangs up.
pub fn hung_up(flags: i32) -> io::Result<OwnedFd> {
    let how = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let master = rustix::pty::openpt(rustix::pty::OpenptFlags::from_bits_retain(how as u32))?;
    rustix::pty::unlockpt(&master)?;
    let how = flags | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the argument of this ioctl is a number.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, how) };
    let slave = result(slave)?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(slave) })
}

fn result(ret: i32) -> io::Result<i32> {
    match ret {
        -1 => Err(io::Error::last_os_error()),
        n => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_that_has_hung_up_is_at_its_end() {
        let tty = hung_up(libc::O_RDWR).unwrap();
        assert_eq!(rustix::io::read(&tty, &mut [0; 1][..]), Ok(0));
        assert_eq!(rustix::io::write(&tty, b"x"), Err(rustix::io::Errno::IO));
    }

    #[test]
    fn what_is_no_terminal_is_told_apart() {
        assert!(!is_one(std::fs::File::open("/dev/null").unwrap()));
    }
}
