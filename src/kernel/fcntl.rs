//! fcntl(2) commands that have no wrapper elsewhere.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

const F_GETOWN_EX: i32 = 16;
const F_GETOWNER_UIDS: i32 = 17;

/// Owner kind: a thread.
pub const F_OWNER_TID: u32 = 0;
/// Owner kind: a process group.
pub const F_OWNER_PGRP: u32 = 2;

/// `F_SETOWN_EX`.
pub const F_SETOWN_EX: u32 = 15;
/// `F_SETSIG`.
pub const F_SETSIG: u32 = 10;

/// `struct f_owner_ex`: kind (F_OWNER_TID, F_OWNER_PID, F_OWNER_PGRP) and id;
/// 0: nobody.
pub fn owner(fd: impl AsFd) -> io::Result<(u32, i32)> {
    let mut owner = [0_i32; 2];
    // SAFETY: F_GETOWN_EX writes two ints, for which there is room.
    let ret = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_GETOWN_EX, owner.as_mut_ptr()) };
    match ret {
        0 => Ok((owner[0] as u32, owner[1])),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Real and effective uid of the task that set the owner.
pub fn owner_uids(fd: impl AsFd) -> io::Result<(u32, u32)> {
    let mut uids = [0_u32; 2];
    // SAFETY: F_GETOWNER_UIDS writes two uids, for which there is room.
    let ret = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_GETOWNER_UIDS, uids.as_mut_ptr()) };
    match ret {
        0 => Ok((uids[0], uids[1])),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The signal sent instead of SIGIO; 0: SIGIO.
pub fn signal(fd: impl AsFd) -> io::Result<u32> {
    const F_GETSIG: i32 = 11;
    // SAFETY: F_GETSIG takes no argument.
    match unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_GETSIG) } {
        -1 => Err(io::Error::last_os_error()),
        signal => Ok(signal as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_pipe_has_no_owner() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        assert_eq!(owner(&reader).unwrap().1, 0);
        assert_eq!(owner_uids(&reader).unwrap(), (0, 0));
        assert_eq!(signal(&reader).unwrap(), 0);
    }
}
