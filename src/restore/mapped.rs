//! The files that address spaces are made of, opened once each in the root of
//! the restore and inherited by all tasks.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsRawFd, OwnedFd};

use icecore_images::ids::ShmemId;
use icecore_images::mm::{Backing, MmState, Vma};
use icecore_images::regular::FileRef;
use rustix::fs::OFlags;

use super::file_ref;
use super::ghost::Ghosts;
use super::shmem::Shmems;
use crate::error::RestoreError;

/// Open files by what is mapped and whether it may be written through the
/// mapping.
#[derive(Debug)]
pub(crate) struct MappedFiles {
    fds: HashMap<Key, OwnedFd>,
    exes: HashMap<Key, OwnedFd>,
}

/// A file is the same if its path, device and inode are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Shmem(ShmemId, bool),
    File(Vec<u8>, u64, u64, bool),
}

impl MappedFiles {
    /// Opens everything that address spaces need.
    pub(super) fn open(
        mms: &[MmState],
        shmems: &Shmems,
        ghosts: &Ghosts,
    ) -> Result<Self, RestoreError> {
        let (mut fds, mut exes) = (HashMap::new(), HashMap::new());
        for vma in mms.iter().flat_map(|mm| &mm.vmas) {
            let Some(key) = key(vma) else { continue };
            if let Entry::Vacant(free) = fds.entry(key) {
                free.insert(open(vma, shmems, ghosts)?);
            }
        }
        for mm in mms {
            if let Entry::Vacant(free) = exes.entry(of_file(&mm.exe, false)) {
                free.insert(open_file(&mm.exe, false, ghosts)?);
            }
        }
        Ok(Self { fds, exes })
    }

    /// The descriptor an area is mapped from; `None` for anonymous memory.
    pub(super) fn fd(&self, vma: &Vma) -> Option<u32> {
        let fd = self.fds.get(&key(vma)?)?;
        Some(fd.as_raw_fd() as u32)
    }

    /// The descriptor of a program.
    pub(super) fn exe(&self, mm: &MmState) -> Option<u32> {
        let fd = self.exes.get(&of_file(&mm.exe, false))?;
        Some(fd.as_raw_fd() as u32)
    }
}

/// Whether the open behind an area must allow writing: for a private one it
/// need not, whatever the area's protection.
fn through(vma: &Vma, writable: bool) -> bool {
    vma.shared && writable
}

fn key(vma: &Vma) -> Option<Key> {
    match &vma.backing {
        Backing::Shmem { id, writable, .. } => Some(Key::Shmem(*id, through(vma, *writable))),
        Backing::File { file, writable, .. } => Some(of_file(file, through(vma, *writable))),
        _ => None,
    }
}

fn of_file(file: &FileRef, writable: bool) -> Key {
    Key::File(file.path.0.clone(), file.device, file.inode, writable)
}

fn open(vma: &Vma, shmems: &Shmems, ghosts: &Ghosts) -> Result<OwnedFd, RestoreError> {
    match &vma.backing {
        Backing::Shmem { id, writable, .. } => {
            let flags = access(through(vma, *writable));
            let fd = shmems.reopen(*id, flags);
            fd.map_err(|e| rebuild(format!("shared memory object {id}"), e))
        }
        Backing::File { file, writable, .. } => open_file(file, through(vma, *writable), ghosts),
        _ => Err(rebuild(
            "an area of no file".to_owned(),
            rustix::io::Errno::BADF,
        )),
    }
}

fn open_file(file: &FileRef, writable: bool, ghosts: &Ghosts) -> Result<OwnedFd, RestoreError> {
    let fd = file_ref::open(ghosts, file, access(writable))
        .map_err(|e| rebuild(format!("the mapping of {}", file.path), e))?;
    Ok(fd)
}

fn access(writable: bool) -> OFlags {
    match writable {
        true => OFlags::RDWR,
        false => OFlags::RDONLY,
    }
}

fn rebuild(what: String, errno: rustix::io::Errno) -> RestoreError {
    RestoreError::Rebuild {
        what,
        source: errno.into(),
    }
}
