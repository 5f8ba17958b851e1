//! The memory of another process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Access to a task's memory; stays valid when any of its threads ends.
#[derive(Debug)]
pub struct Memory {
    tid: u32,
    mem: File,
}

impl Memory {
    /// Opens the memory of the task that the thread `tid` belongs to.
    pub fn open(tid: u32) -> io::Result<Self> {
        let mem = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{tid}/mem"))?;
        Ok(Self { tid, mem })
    }

    /// Reads all of `buffer`, honouring page protection (process_vm_readv)
    /// and, where that refuses, forcing it (/proc/PID/mem).
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        let local = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        let remote = libc::iovec {
            iov_base: address as *mut libc::c_void,
            iov_len: buffer.len(),
        };
        // SAFETY: `local` is `buffer`; `remote` is looked at by the kernel, in
        // the other process, only.
        let n = unsafe {
            libc::process_vm_readv(
                self.tid as libc::pid_t,
                &raw const local,
                1,
                &raw const remote,
                1,
                0,
            )
        };
        if n == buffer.len() as isize {
            return Ok(());
        }
        self.mem.read_exact_at(buffer, address)
    }

    /// The word at `address`.
    pub fn read_u64(&self, address: u64) -> io::Result<u64> {
        let mut word = [0; 8];
        self.read(address, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    /// Writes `bytes`, whatever the pages' protection says: a private page
    /// becomes the process's own copy.
    pub fn force_write(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        self.mem.write_all_at(bytes, address)
    }
}
