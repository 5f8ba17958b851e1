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
        /// Index into `Checkpoint::page_files`.
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

impl PageFile {
    /// Checksum of the whole file without reading it: CRC-32 of the chunks'
    /// checksums, each as four little-endian bytes.
    pub fn checksum(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        for chunk in &self.chunks {
            crc.update(&chunk.to_le_bytes());
        }
        crc.finalize()
    }

    /// Number of chunks a file of this length has.
    pub fn chunk_count(length: u64) -> u64 {
        length.div_ceil(CHUNK_SIZE)
    }

    /// Bytes of chunk `index`; 0 behind the end.
    pub fn chunk_length(&self, index: usize) -> usize {
        let start = (index as u64).saturating_mul(CHUNK_SIZE);
        self.length.saturating_sub(start).min(CHUNK_SIZE) as usize
    }
}

/// Checksum of a chunk's bytes.
pub fn chunk_checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// Coding of a page file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PageCodec {
    /// As it lay in memory.
    Raw,
}
