//! Shared memory objects: memfds and what lies behind MAP_SHARED |
//! MAP_ANONYMOUS, of ordinary and of huge pages.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SeekFrom, fstatfs, memfd_create, seek};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// The device on which the kernel keeps ordinary shared memory objects, which
/// no path leads to.
pub fn internal_device() -> io::Result<u64> {
    let probe = memfd_create("icecore", MemfdFlags::CLOEXEC)?;
    Ok(File::from(probe).metadata()?.dev())
}

/// Bytes of a huge page, if the file consists of such.
pub fn huge_page_size(file: impl AsFd) -> io::Result<Option<u64>> {
    let fs = fstatfs(file)?;
    Ok((fs.f_type as i64 == HUGETLBFS_MAGIC).then_some(fs.f_bsize as u64))
}

/// The object behind a new MAP_SHARED | MAP_ANONYMOUS area, open for reading
/// and writing. `size` is in bytes, a multiple of the page size; it counts as
/// committed at once unless `no_reserve`. Needs CAP_CHECKPOINT_RESTORE to get at
/// it through `/proc/self/map_files`.
pub fn shared_anonymous(
    size: u64,
    huge_page_size: Option<u64>,
    no_reserve: bool,
) -> io::Result<File> {
    let mapping = Mapping::new(size, huge_page_size, no_reserve)?;
    File::options()
        .read(true)
        .write(true)
        .open(mapping.map_files_link())
}

/// An area that exists only until its object has been opened.
struct Mapping {
    at: *mut std::ffi::c_void,
    len: usize,
}

impl Mapping {
    fn new(size: u64, huge_page_size: Option<u64>, no_reserve: bool) -> io::Result<Self> {
        let len = usize::try_from(size).map_err(|_| Errno::OVERFLOW)?;
        let mut flags = MapFlags::SHARED;
        if no_reserve {
            flags |= MapFlags::NORESERVE;
        }
        if let Some(page) = huge_page_size {
            flags |= MapFlags::from_bits_retain(huge_map_flags(page));
        }
        // SAFETY: a new area at an address of the kernel's choice, never
        // dereferenced.
        let at = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), flags)? };
        Ok(Self { at, len })
    }

    fn map_files_link(&self) -> PathBuf {
        let start = self.at as usize;
        format!("/proc/self/map_files/{start:x}-{:x}", start + self.len).into()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this area is ours, and nothing points into it. Should the
        // kernel refuse, an inaccessible area stays until we end.
        let _ = unsafe { munmap(self.at, self.len) };
    }
}

/// MAP_HUGETLB with this page size, for mmap.
pub fn huge_map_flags(page_size: u64) -> u32 {
    libc::MAP_HUGETLB as u32 | (page_size.trailing_zeros() << libc::MAP_HUGE_SHIFT)
}

/// A new memfd, sealable, open for reading and writing.
pub fn create_memfd(name: &[u8], huge_page_size: Option<u64>) -> io::Result<OwnedFd> {
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if let Some(page) = huge_page_size {
        let size_bits = page.trailing_zeros() << libc::MFD_HUGE_SHIFT;
        flags |= MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(size_bits);
    }
    Ok(memfd_create(name, flags)?)
}

/// The parts of a file that hold data, as start and end offsets; what lies
/// between is holes. Huge page files know no holes and are one part.
pub fn data_ranges(file: impl AsFd, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(&file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = seek(&file, SeekFrom::Hole(start))?.min(size);
        if start >= end {
            break;
        }
        ranges.push((start, end));
        at = end;
    }
    Ok(ranges)
}

/// A window through which a file of huge pages, which knows no write(2), is
/// written.
#[derive(Debug)]
pub struct Window {
    at: *mut std::ffi::c_void,
    len: usize,
}

// SAFETY: the window is plain shared memory; writers to disjoint parts need no
// order, and writers to the same part are no worse than two write(2) calls.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Maps the first `size` bytes of `file`, which is open for writing.
    pub fn open(file: impl AsFd, size: u64) -> io::Result<Self> {
        let len = usize::try_from(size).map_err(|_| Errno::OVERFLOW)?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new area at an address of the kernel's choice.
        let at = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, file, 0)? };
        Ok(Self { at, len })
    }

    /// Writes `bytes` at `offset`; the file must not be truncated meanwhile.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| Errno::OVERFLOW)?;
        let end = start.checked_add(bytes.len()).ok_or(Errno::OVERFLOW)?;
        if end > self.len {
            return Err(Errno::FBIG.into());
        }
        // SAFETY: the range was just checked to lie within the area, which
        // stays mapped as long as `self`; `bytes` is no part of it, for no
        // reference into it is ever given out.
        unsafe {
            let to = self.at.cast::<u8>().add(start);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        Ok(())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: this area is ours, and nothing points into it. Should the
        // kernel refuse, it stays mapped until we end.
        let _ = unsafe { munmap(self.at, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_are_no_data() {
        let file = File::from(create_memfd(b"holes", None).unwrap());
        file.set_len(1 << 20).unwrap();
        assert_eq!(data_ranges(&file, 1 << 20).unwrap(), []);
        file.write_all_at(b"x", 0x5001).unwrap();
        file.write_all_at(b"x", 0xf_ffff).unwrap();
        let expected = [(0x5000, 0x6000), (0xf_f000, 0x10_0000)];
        assert_eq!(data_ranges(&file, 1 << 20).unwrap(), expected);
    }

    #[test]
    fn anonymous_objects_live_on_the_internal_device() {
        let file = shared_anonymous(3 * 4096, None, false).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!(meta.dev(), internal_device().unwrap());
        assert_eq!((meta.size(), meta.nlink()), (3 * 4096, 0));
        assert_eq!(huge_page_size(&file).unwrap(), None);
    }

    #[test]
    fn a_window_writes_within_its_bounds_only() {
        let file = File::from(create_memfd(b"window", None).unwrap());
        file.set_len(8192).unwrap();
        let window = Window::open(&file, 8192).unwrap();
        window.write_at(b"abc", 4095).unwrap();
        assert!(window.write_at(b"abc", 8190).is_err());
        let mut back = [0; 3];
        file.read_exact_at(&mut back, 4095).unwrap();
        assert_eq!(&back, b"abc");
    }
}
