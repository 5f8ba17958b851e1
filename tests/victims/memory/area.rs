//! A piece of memory of a victim's own, written and checked page by page.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

pub(crate) const PAGE: usize = 4096;
pub(crate) const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
pub(crate) const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
pub(crate) const SHARED: i32 = libc::MAP_SHARED | libc::MAP_ANONYMOUS;

/// An area that stays mapped as long as its victim lives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Area {
    pub(crate) at: *mut u8,
    pub(crate) len: usize,
}

impl Area {
    /// Anonymous memory.
    pub(crate) fn new(pages: usize, prot: i32, flags: i32) -> Result<Self, String> {
        Self::map(std::ptr::null_mut(), pages * PAGE, prot, flags, -1, 0)
    }

    /// A file's.
    pub(crate) fn of_file(
        file: BorrowedFd<'_>,
        offset: usize,
        pages: usize,
        prot: i32,
        flags: i32,
    ) -> Result<Self, String> {
        let none = std::ptr::null_mut();
        Self::map(none, pages * PAGE, prot, flags, file.as_raw_fd(), offset)
    }

    pub(crate) fn map(
        at: *mut u8,
        len: usize,
        prot: i32,
        flags: i32,
        fd: i32,
        offset: usize,
    ) -> Result<Self, String> {
        // SAFETY: a new area; where an address is given, its user has made
        // sure that nothing else is there or that it may go.
        let at = unsafe { libc::mmap(at.cast(), len, prot, flags, fd, offset as i64) };
        match at == libc::MAP_FAILED {
            true => Err(format!("mmap: {}", io::Error::last_os_error())),
            false => Ok(Self { at: at.cast(), len }),
        }
    }

    /// Some of its pages.
    pub(crate) fn pages(&self, from: usize, count: usize) -> Self {
        assert!((from + count) * PAGE <= self.len);
        Self {
            // SAFETY: just checked to be within the area.
            at: unsafe { self.at.add(from * PAGE) },
            len: count * PAGE,
        }
    }

    pub(crate) fn start(&self) -> u64 {
        self.at as u64
    }

    /// Writes `seed`'s pattern into page `page`.
    pub(crate) fn write(&self, page: usize, seed: u64) {
        assert!((page + 1) * PAGE <= self.len);
        for i in 0..PAGE / 8 {
            // SAFETY: within the area, which the caller has made writable.
            unsafe {
                let word = self.at.add(page * PAGE).cast::<u64>().add(i);
                word.write_volatile(pattern(seed, page, i));
            }
        }
    }

    /// Writes all pages.
    pub(crate) fn fill(&self, seed: u64) {
        (0..self.len / PAGE).for_each(|page| self.write(page, seed));
    }

    /// The words of page `page`.
    pub(crate) fn read(&self, page: usize) -> Vec<u64> {
        assert!((page + 1) * PAGE <= self.len);
        // SAFETY: within the area, which the caller knows to be readable.
        let word = |i| unsafe {
            self.at
                .add(page * PAGE)
                .cast::<u64>()
                .add(i)
                .read_volatile()
        };
        (0..PAGE / 8).map(word).collect()
    }

    /// Whether page `page` holds `seed`'s pattern.
    pub(crate) fn check(&self, page: usize, seed: u64) -> Result<(), String> {
        let expected: Vec<u64> = (0..PAGE / 8).map(|i| pattern(seed, page, i)).collect();
        self.expect(page, &expected)
    }

    /// Whether page `page` is zero.
    pub(crate) fn check_zero(&self, page: usize) -> Result<(), String> {
        self.expect(page, &[0; PAGE / 8])
    }

    /// Whether all pages hold `seed`'s pattern.
    pub(crate) fn check_all(&self, seed: u64) -> Result<(), String> {
        (0..self.len / PAGE).try_for_each(|page| self.check(page, seed))
    }

    fn expect(&self, page: usize, expected: &[u64]) -> Result<(), String> {
        let found = self.read(page);
        match found == expected {
            true => Ok(()),
            false => Err(format!(
                "page {page} of the area at {:p} holds {:x?}…, not {:x?}…",
                self.at,
                &found[..2],
                &expected[..2]
            )),
        }
    }

    pub(crate) fn advise(&self, advice: i32) -> Result<(), String> {
        // SAFETY: advice that only victims' own expectations depend on.
        done("madvise", unsafe {
            libc::madvise(self.at.cast(), self.len, advice)
        })
    }

    /// Makes it longer, wherever that is; the old place is gone.
    pub(crate) fn grow(&self, pages: usize) -> Result<Self, String> {
        let len = pages * PAGE;
        // SAFETY: the area is the caller's, who uses the new one from here on.
        let at = unsafe { libc::mremap(self.at.cast(), self.len, len, libc::MREMAP_MAYMOVE) };
        match at == libc::MAP_FAILED {
            true => Err(format!("mremap: {}", io::Error::last_os_error())),
            false => Ok(Self { at: at.cast(), len }),
        }
    }

    /// Unmaps it; it is not used again.
    pub(crate) fn unmap(&self) -> Result<(), String> {
        // SAFETY: the area is the caller's, who does not use it again.
        match unsafe { libc::munmap(self.at.cast(), self.len) } {
            0 => Ok(()),
            _ => Err(format!("munmap: {}", io::Error::last_os_error())),
        }
    }

    pub(crate) fn protect(&self, prot: i32) -> Result<(), String> {
        // SAFETY: the victim touches its areas as it protects them.
        done("mprotect", unsafe {
            libc::mprotect(self.at.cast(), self.len, prot)
        })
    }

    /// Whether it is locked: msync(MS_INVALIDATE) is refused then.
    pub(crate) fn is_locked(&self) -> bool {
        // SAFETY: msync changes no contents.
        let ret = unsafe { libc::msync(self.at.cast(), self.len, libc::MS_INVALIDATE) };
        ret != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EBUSY)
    }
}

fn pattern(seed: u64, page: usize, i: usize) -> u64 {
    (seed << 40 | (page as u64) << 10 | i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// The outcome of a call that returns 0 or -1.
pub(crate) fn done(what: &str, ret: i32) -> Result<(), String> {
    match ret {
        0 => Ok(()),
        _ => Err(format!("{what}: {}", io::Error::last_os_error())),
    }
}

/// A system call that libc has no function for.
pub(crate) fn syscall(what: &str, nr: i64, args: [u64; 5]) -> Result<u64, String> {
    let [a, b, c, d, e] = args;
    // SAFETY: the callers pass addresses of their own areas and buffers.
    let ret = unsafe { libc::syscall(nr, a, b, c, d, e, 0_u64) };
    match ret {
        -1 => Err(format!("{what}: {}", io::Error::last_os_error())),
        n => Ok(n as u64),
    }
}

/// Lines of our own memory map.
pub(crate) fn own_maps() -> Result<Vec<String>, String> {
    let text = std::fs::read("/proc/self/maps").map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(text.lines().map(str::to_owned).collect())
}

/// The VmFlags of the area that starts at `start`.
pub(crate) fn own_flags(start: u64) -> Result<String, String> {
    let text = std::fs::read("/proc/self/smaps").map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let wanted = format!("{start:x}-");
    let mut lines = text.lines().skip_while(|l| !l.starts_with(&wanted));
    let flags = lines.find_map(|l| l.strip_prefix("VmFlags:"));
    flags
        .map(str::to_owned)
        .ok_or_else(|| format!("no area at {start:#x}"))
}

/// What a condition that does not hold means.
pub(crate) fn ensure(holds: bool, otherwise: &str) -> Result<(), String> {
    match holds {
        true => Ok(()),
        false => Err(otherwise.to_owned()),
    }
}
