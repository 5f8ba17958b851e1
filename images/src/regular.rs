//! Files by name: how one is found again, and how a change is noticed. Files
//! without a name any more are carried as ghosts.

use serde::{Deserialize, Serialize};

use crate::bytes::ByteString;
use crate::ids::GhostId;
use crate::pages::PageExtent;

/// A file in the file system, and what it looked like when it was dumped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Its absolute path as icecore saw it (a task's own root lies below it),
    /// without "(deleted)".
    pub path: ByteString,
    /// `st_mode`.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// `st_dev` and `st_ino` at the dump; shown, and used for identity within
    /// the image only.
    pub device: u64,
    /// See `device`.
    pub inode: u64,
    /// GNU build id of an ELF file, where it has one.
    pub build_id: Option<ByteString>,
    /// Set where the name was gone: the contents are in the image.
    pub ghost: Option<GhostId>,
}

/// A file (or an empty directory, by its mode) without a name, carried in the
/// image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GhostFile {
    /// Its name in this image.
    pub id: GhostId,
    /// The last name it had.
    pub path: ByteString,
    /// `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Access time, nanoseconds since the epoch.
    pub atime_ns: i64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Extended attributes.
    pub xattrs: Vec<(ByteString, ByteString)>,
    /// Contents by offset; what no extent covers is a hole. The last page
    /// may reach beyond `size`. A directory has none.
    pub pages: Vec<PageExtent>,
}
