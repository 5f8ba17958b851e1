//! Shared memory objects: shared anonymous areas, memfds, System V segments.

use serde::{Deserialize, Serialize};

use crate::bytes::ByteString;
use crate::ids::ShmemId;
use crate::pages::PageExtent;

/// A shared memory object and its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShmemState {
    /// Its name in this image.
    pub id: ShmemId,
    /// Inode number at the dump.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub kind: ShmemKind,
    /// Contents by offset; what no extent covers is a hole.
    pub pages: Vec<PageExtent>,
}

/// What a shared memory object is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShmemKind {
    /// MAP_SHARED | MAP_ANONYMOUS.
    Anonymous,
    /// MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB.
    AnonymousHuge {
        /// Bytes.
        page_size: u64,
    },
    /// memfd_create(2).
    MemFd {
        /// Name without "memfd:".
        name: ByteString,
        /// F_SEAL_*.
        seals: u32,
        /// Page size of a hugetlb memfd; 0: ordinary pages.
        huge_page_size: u64,
        /// `st_mode` permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// shmget(2).
    SysV {
        /// shmid.
        shm_id: u32,
        /// Its key, also if it has lost that by being removed.
        key: u32,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// User it was created by.
        creator_uid: u32,
        /// Group it was created by.
        creator_gid: u32,
        /// Removed (IPC_RMID): goes with its last user.
        removed: bool,
        /// Stays in memory (SHM_LOCK).
        locked: bool,
    },
}
