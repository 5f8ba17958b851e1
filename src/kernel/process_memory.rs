//! The memory of another process. There are two ways in: one that honours the
//! protection of pages, fast and for many pieces at once, and one that forces
//! its way through `/proc/PID/mem` as a debugger does.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;

use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

/// The most pieces one call takes (IOV_MAX).
pub const MAX_PIECES: usize = 1024;

/// A piece of another process's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Its address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// Another process's memory. Access needs the rights of a debugger
/// (PTRACE_MODE_ATTACH), but no tracing; any thread may use it.
#[derive(Debug)]
pub struct ProcessMemory {
    pid: Pid,
    mem: File,
}

impl ProcessMemory {
    /// Opens the memory of process (or thread) `pid`.
    pub fn open(pid: u32) -> io::Result<Self> {
        let raw = i32::try_from(pid).map_err(io::Error::other)?;
        let mem = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))?;
        Ok(Self {
            pid: Pid::from_raw(raw),
            mem,
        })
    }

    /// Reads pieces one after the other into `buf`, which is as long as all of
    /// them. Returns how many bytes came before a page that is not there or
    /// not readable: `buf.len()` if there is none.
    pub fn read_pieces(&self, pieces: &[Piece], buf: &mut [u8]) -> io::Result<usize> {
        let remote = remote(pieces);
        settle(process_vm_readv(
            self.pid,
            &mut [IoSliceMut::new(buf)],
            &remote,
        ))
    }

    /// Writes `buf` into pieces one after the other. Returns how many bytes
    /// went in before a page that is not there or not writable.
    pub fn write_pieces(&self, pieces: &[Piece], buf: &[&[u8]]) -> io::Result<usize> {
        let local: Vec<_> = buf.iter().map(|b| IoSlice::new(b)).collect();
        settle(process_vm_writev(self.pid, &local, &remote(pieces)))
    }

    /// Fills `buf` from `address`, whatever the protection.
    pub fn force_read(&self, address: u64, buf: &mut [u8]) -> io::Result<()> {
        self.mem.read_exact_at(buf, address)
    }

    /// Writes `buf` to `address`, whatever the protection.
    pub fn force_write(&self, address: u64, buf: &[u8]) -> io::Result<()> {
        self.mem.write_all_at(buf, address)
    }
}

fn remote(pieces: &[Piece]) -> Vec<RemoteIoVec> {
    let vec = |p: &Piece| RemoteIoVec {
        base: p.start as usize,
        len: p.len as usize,
    };
    pieces.iter().map(vec).collect()
}

/// A fault at the very first page is an error to the kernel; here it is none.
fn settle(result: nix::Result<usize>) -> io::Result<usize> {
    match result {
        Err(nix::errno::Errno::EFAULT) => Ok(0),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

    /// Three pages of ours: written, without access, written.
    struct Fenced(*mut std::ffi::c_void);

    impl Fenced {
        fn new() -> Self {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new area of our own; only its own bytes are written
            // and protected, and it stays mapped until drop.
            unsafe {
                let at = mmap_anonymous(std::ptr::null_mut(), 3 * 4096, prot, MapFlags::PRIVATE)
                    .unwrap();
                for page in 0..3 {
                    at.cast::<u8>()
                        .add(page * 4096)
                        .write_bytes(page as u8 + 1, 4096);
                }
                mprotect(at.byte_add(4096), 4096, MprotectFlags::empty()).unwrap();
                Self(at)
            }
        }
    }

    impl Drop for Fenced {
        fn drop(&mut self) {
            // SAFETY: this area is ours and no reference into it exists.
            unsafe { munmap(self.0, 3 * 4096) }.unwrap();
        }
    }

    #[test]
    fn reading_stops_at_a_fence_that_force_gets_over() {
        let area = Fenced::new();
        let start = area.0 as u64;
        let memory = ProcessMemory::open(std::process::id()).unwrap();
        let mut buf = vec![0; 3 * 4096];
        let all = Piece {
            start,
            len: 3 * 4096,
        };
        assert_eq!(memory.read_pieces(&[all], &mut buf).unwrap(), 4096);
        memory
            .force_read(start + 4096, &mut buf[4096..8192])
            .unwrap();
        assert!(buf[..4096].iter().all(|&b| b == 1));
        assert!(buf[4096..8192].iter().all(|&b| b == 2));
        let fence = Piece {
            start: start + 4096,
            len: 4096,
        };
        assert_eq!(memory.read_pieces(&[fence], &mut buf[..4096]).unwrap(), 0);
    }

    #[test]
    fn writing_goes_into_pieces_and_stops_at_a_fence() {
        let area = Fenced::new();
        let start = area.0 as u64;
        let memory = ProcessMemory::open(std::process::id()).unwrap();
        let piece = |page: u64, len| Piece {
            start: start + page * 4096,
            len,
        };
        let pieces = [piece(2, 2), piece(0, 4096), piece(1, 4096)];
        let bytes = vec![9; 2 + 2 * 4096];
        assert_eq!(memory.write_pieces(&pieces, &[&bytes]).unwrap(), 2 + 4096);
        memory.force_write(start + 4096, &[7; 4096]).unwrap();
        let mut page = [0; 4096];
        memory.force_read(start + 4096, &mut page).unwrap();
        assert_eq!(page, [7; 4096]);
    }
}
