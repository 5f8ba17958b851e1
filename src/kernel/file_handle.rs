//! open_by_handle_at(2): a file by what its file system calls it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Handles are at most this long (MAX_HANDLE_SZ).
const LONGEST: usize = 128;

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; LONGEST],
}

/// Opens (O_PATH) the file with this handle on the file system that `mount` is
/// a descriptor of. Needs CAP_DAC_READ_SEARCH.
pub fn open(mount: impl AsFd, kind: i32, handle: &[u8]) -> io::Result<OwnedFd> {
    let mut raw = FileHandle {
        bytes: handle.len() as u32,
        kind,
        handle: [0; LONGEST],
    };
    raw.handle
        .get_mut(..handle.len())
        .ok_or(io::ErrorKind::InvalidInput)?
        .copy_from_slice(handle);
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: the kernel reads `raw`, whose `bytes` does not exceed its room.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_fd().as_raw_fd(),
            &raw const raw,
            flags,
        )
    };
    match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just given us this descriptor.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
    }
}
