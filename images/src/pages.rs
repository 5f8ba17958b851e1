//! Where page contents lie: extents of a `pages-N` file.

use serde::{Deserialize, Serialize};

/// Size of a page; extents count in these.
pub const PAGE_SIZE: u64 = 4096;

/// Bytes of a page file that share one checksum.
pub const CHUNK_SIZE: u64 = 1 << 20;

/// A run of pages, contiguous in memory and on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageExtent {
    /// Address (memory) or offset (shared memory objects, ghost files), bytes.
    pub start: u64,
    /// Number of pages.
    pub count: u64,
    /// Where the contents are.
    pub source: PageSource,
}

/// Where the contents of an extent are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PageSource {
    /// In page file `file`, from byte `offset`.
    File {
        /// Index into `Objects::page_files`.
        file: u32,
        /// Bytes.
        offset: u64,
    },
    /// All zero, but present: not stored.
    Zero,
    /// As in the parent image.
    Parent,
}

/// One `pages-N` file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageFile {
    /// Bytes.
    pub length: u64,
    /// How its contents are coded.
    pub codec: PageCodec,
    /// CRC-32 of each chunk of [`CHUNK_SIZE`] bytes, the last one shorter.
    pub chunks: Vec<u32>,
}

/// Coding of a page file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PageCodec {
    /// As it lay in memory.
    Raw,
}
