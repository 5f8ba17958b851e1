//! Which pages of an area exist: the PAGEMAP_SCAN ioctl where the kernel has
//! it (6.7), `/proc/PID/pagemap` otherwise.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use linux_raw_sys::general as sys;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = 0xC060_6610;

const _: () = assert!(size_of::<sys::pm_scan_arg>() == 0x60);

/// Pages that are a private mapping's own, or guard pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Installed by MADV_GUARD_INSTALL: touching them is SIGSEGV.
    pub guard: bool,
}

/// How pages are found on this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// PAGEMAP_SCAN that knows guard pages (6.15).
    ScanGuards,
    /// PAGEMAP_SCAN; guard pages (6.13) look like swapped ones.
    Scan,
    /// A word for each page.
    Table,
}

/// The page map of a task.
#[derive(Debug)]
pub struct PageMap {
    file: File,
    method: Method,
    regions: Vec<sys::page_region>,
}

impl PageMap {
    /// Opens `/proc/PID/pagemap` and finds out what the kernel can do with it.
    pub fn open(pid: u32) -> io::Result<Self> {
        let empty = sys::page_region {
            start: 0,
            end: 0,
            categories: 0,
        };
        let mut map = Self {
            file: File::open(format!("/proc/{pid}/pagemap"))?,
            method: Method::ScanGuards,
            regions: vec![empty; 4096],
        };
        // An empty range: the kernel checks the request and walks nothing.
        for method in [Method::ScanGuards, Method::Scan] {
            map.method = method;
            match map.scan(0, 0) {
                Ok(_) => return Ok(map),
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOTTY)) => {}
                Err(e) => return Err(e),
            }
        }
        map.method = Method::Table;
        Ok(map)
    }

    /// How pages are found.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Forces a method, to test the fall-backs.
    #[cfg(test)]
    fn with_method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// The private pages of `start..end`: anonymous memory that is present or
    /// swapped out and not the zero page. Pages of files and of shared memory,
    /// untouched ones among them, are left out.
    pub fn private_runs(&mut self, start: u64, end: u64) -> io::Result<Vec<Run>> {
        match self.method {
            Method::Table => self.table_runs(start, end),
            Method::Scan | Method::ScanGuards => self.scan_runs(start, end),
        }
    }

    fn scan_runs(&mut self, start: u64, end: u64) -> io::Result<Vec<Run>> {
        let mut runs = Vec::new();
        let mut at = start;
        loop {
            let found = self.scan(at, end)?;
            for region in &self.regions[..found] {
                let guard = region.categories & u64::from(sys::PAGE_IS_GUARD) != 0;
                push_run(&mut runs, region.start, region.end, guard);
            }
            // The kernel's own walk_end goes stale past 512 regions; the end of
            // the last region does not, and a vector with room left is the end.
            match self.regions[..found].last() {
                Some(last) if found == self.regions.len() && last.end < end => at = last.end,
                _ => return Ok(runs),
            }
        }
    }

    /// Fills `regions` from `start` on and says how many there are.
    fn scan(&mut self, start: u64, end: u64) -> io::Result<usize> {
        let excluded = u64::from(sys::PAGE_IS_FILE | sys::PAGE_IS_PFNZERO);
        let guard = match self.method {
            Method::ScanGuards => u64::from(sys::PAGE_IS_GUARD),
            Method::Scan | Method::Table => 0,
        };
        let mut request = sys::pm_scan_arg {
            size: size_of::<sys::pm_scan_arg>() as u64,
            flags: 0,
            start,
            end,
            walk_end: 0,
            vec: self.regions.as_mut_ptr() as u64,
            vec_len: self.regions.len() as u64,
            max_pages: 0,
            category_inverted: excluded,
            category_mask: excluded,
            category_anyof_mask: u64::from(sys::PAGE_IS_PRESENT | sys::PAGE_IS_SWAPPED),
            // A bit that is never set in what matches, so that runs are not
            // split where it would be of no interest.
            return_mask: guard | u64::from(sys::PAGE_IS_FILE),
        };
        // SAFETY: the request and the vector it points to, which holds
        // `vec_len` regions, outlive the call; the kernel writes nothing else.
        let found = unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, &mut request) };
        usize::try_from(found).map_err(|_| io::Error::last_os_error())
    }

    /// Tells of each page from `start` to `end` which one it is: a number that
    /// other address spaces have for the very same page, or `None` where it is
    /// nobody else's, or where that cannot be known (no CAP_SYS_ADMIN).
    pub fn for_each_page(
        &self,
        start: u64,
        end: u64,
        mut tell: impl FnMut(u64, Option<u64>),
    ) -> io::Result<()> {
        // What is swapped out can be told from guard pages only with ScanGuards.
        let swapped_too = self.method == Method::ScanGuards;
        self.for_each_word(start, end, |address, word| {
            let present = word & PM_PRESENT != 0;
            let known = match present {
                true => word & PM_EXCLUSIVE == 0 && word & PM_FRAME != 0,
                false => swapped_too && word & PM_SWAPPED != 0 && word & PM_FRAME != 0,
            };
            tell(address, known.then_some(word & (PM_PRESENT | PM_FRAME)));
        })
    }

    /// Tells of each run of pages from `start` to `end` whether nobody else
    /// has them. What cannot be known (swapped out) is taken for shared.
    pub fn for_each_exclusive_run(
        &self,
        start: u64,
        end: u64,
        mut tell: impl FnMut(u64, u64, bool),
    ) -> io::Result<()> {
        let mut run: Option<(u64, u64, bool)> = None;
        self.for_each_word(start, end, |address, word| {
            let exclusive = word & PM_EXCLUSIVE != 0;
            match &mut run {
                Some((_, end, same)) if *same == exclusive => *end = address + PAGE,
                _ => {
                    let next = (address, address + PAGE, exclusive);
                    if let Some((start, end, exclusive)) = run.replace(next) {
                        tell(start, end, exclusive);
                    }
                }
            }
        })?;
        if let Some((start, end, exclusive)) = run {
            tell(start, end, exclusive);
        }
        Ok(())
    }

    fn for_each_word(
        &self,
        start: u64,
        end: u64,
        mut tell: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        const BATCH: u64 = 8192;
        let mut words = vec![0; (BATCH.min((end - start) / PAGE) * 8) as usize];
        let mut at = start;
        while at < end {
            let pages = BATCH.min((end - at) / PAGE);
            let bytes = &mut words[..(pages * 8) as usize];
            self.file.read_exact_at(bytes, at / PAGE * 8)?;
            let (words, _) = bytes.as_chunks::<8>();
            for (word, address) in words.iter().zip((at..).step_by(PAGE as usize)) {
                tell(address, u64::from_le_bytes(*word));
            }
            at += pages * PAGE;
        }
        Ok(())
    }

    fn table_runs(&self, start: u64, end: u64) -> io::Result<Vec<Run>> {
        let mut runs = Vec::new();
        self.for_each_word(start, end, |address, word| {
            if is_private(word) {
                push_run(&mut runs, address, address + PAGE, false);
            }
        })?;
        Ok(runs)
    }
}

/// Bits of a word of the page map: frame number, or place in swap.
const PM_FRAME: u64 = (1 << 55) - 1;
const PM_EXCLUSIVE: u64 = 1 << 56;
/// Of a file, or shared.
const PM_FILE: u64 = 1 << 61;
const PM_SWAPPED: u64 = 1 << 62;
const PM_PRESENT: u64 = 1 << 63;

fn is_private(word: u64) -> bool {
    word & (PM_PRESENT | PM_SWAPPED) != 0 && word & PM_FILE == 0
}

fn push_run(runs: &mut Vec<Run>, start: u64, end: u64, guard: bool) {
    match runs.last_mut() {
        Some(last) if last.end == start && last.guard == guard => last.end = end,
        _ => runs.push(Run { start, end, guard }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

    const PAGES: usize = 3000;

    /// An area of ours in which every third page was written.
    struct Striped(*mut std::ffi::c_void);

    impl Striped {
        fn new() -> Self {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new area that nothing else refers to; it stays mapped
            // until drop, and only its own bytes are written.
            unsafe {
                let at =
                    mmap_anonymous(std::ptr::null_mut(), PAGES * 4096, prot, MapFlags::PRIVATE)
                        .unwrap();
                madvise(at, PAGES * 4096, Advice::LinuxNoHugepage).unwrap();
                for page in (0..PAGES).step_by(3) {
                    at.cast::<u8>().add(page * 4096).write_volatile(1);
                }
                // Reading maps the zero page, which is no private page.
                at.cast::<u8>().add(4096).read_volatile();
                Self(at)
            }
        }

        fn range(&self) -> (u64, u64) {
            (self.0 as u64, self.0 as u64 + PAGES as u64 * PAGE)
        }
    }

    impl Drop for Striped {
        fn drop(&mut self) {
            // SAFETY: this area is ours and no reference into it exists.
            unsafe { munmap(self.0, PAGES * 4096) }.unwrap();
        }
    }

    #[test]
    fn scan_and_table_find_the_same_pages() {
        let area = Striped::new();
        let (start, end) = area.range();
        let pid = std::process::id();
        let table = PageMap::open(pid).unwrap().with_method(Method::Table);
        let expected: Vec<u64> = (0..PAGES as u64)
            .step_by(3)
            .map(|p| start + p * PAGE)
            .collect();
        let mut probed = PageMap::open(pid).unwrap();
        let found = probed.private_runs(start, end).unwrap();
        let starts: Vec<u64> = found.iter().map(|r| r.start).collect();
        assert_eq!(starts, expected);
        assert!(found.iter().all(|r| r.end - r.start == PAGE && !r.guard));
        let mut table_runs = table.table_runs(start, end).unwrap();
        // The table cannot tell the zero page, which copying will find out.
        table_runs.iter_mut().for_each(|r| r.end = r.start + PAGE);
        assert_eq!(table_runs, found);
    }

    #[test]
    fn a_forked_child_has_the_same_pages_until_it_writes() {
        let area = Striped::new();
        let (start, end) = area.range();
        let frames = |pid: u32| {
            let mut all = Vec::new();
            let map = PageMap::open(pid).unwrap();
            map.for_each_page(start, end, |at, frame| {
                all.extend(frame.map(|frame| (at, frame)));
            })
            .unwrap();
            all
        };
        // SAFETY: the child writes one byte of memory that is ours alone and
        // waits to be killed, by system calls only.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above.
            unsafe {
                area.0.cast::<u8>().write_volatile(7);
                area.0.cast::<u8>().add(1).write_volatile(7);
                loop {
                    libc::pause();
                }
            }
        }
        let ours = frames(std::process::id());
        // It has written when the first page is none that we have.
        let mut theirs = frames(child as u32);
        for _ in 0..1000 {
            if theirs.first().is_none_or(|(at, _)| *at != start) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
            theirs = frames(child as u32);
        }
        // SAFETY: ends and reaps our own child.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
        let ours: std::collections::HashSet<_> = ours.into_iter().collect();
        let written = theirs
            .iter()
            .filter(|(at, _)| ((at - start) / PAGE).is_multiple_of(3));
        let written: Vec<_> = written.collect();
        assert!(written.len() + 2 >= PAGES.div_ceil(3), "{}", written.len());
        assert!(
            written
                .iter()
                .all(|page| page.0 != start && ours.contains(page))
        );
    }

    #[test]
    fn more_regions_than_fit_one_request_are_all_found() {
        let area = Striped::new();
        let (start, end) = area.range();
        let mut map = PageMap::open(std::process::id()).unwrap();
        if map.method() == Method::Table {
            return;
        }
        map.regions.truncate(700);
        let found = map.private_runs(start, end).unwrap();
        assert_eq!(found.len(), PAGES.div_ceil(3));
    }
}
