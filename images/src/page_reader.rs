//! Reading page files: every byte that leaves here has been verified.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::ReadError;
use crate::manifest::pages_name;
use crate::os;
use crate::pages::{CHUNK_SIZE, PageFile, chunk_checksum};
use crate::reader::open_regular;

/// The page files of an image. Reading takes `&self` and keeps no position, so
/// any number of threads can read at once.
#[derive(Debug)]
pub struct PageReader {
    files: Vec<OpenPages>,
}

#[derive(Debug)]
struct OpenPages {
    path: PathBuf,
    file: File,
    state: PageFile,
}

impl PageReader {
    /// Opens the page files and checks their lengths.
    pub(crate) fn open(dir: &Path, page_files: &[PageFile]) -> Result<Self, ReadError> {
        let mut files = Vec::new();
        for (n, state) in page_files.iter().enumerate() {
            let path = dir.join(pages_name(n));
            let (file, found) = open_regular(&path)?;
            let expected = state.length;
            if found != expected {
                return Err(ReadError::Length {
                    path,
                    expected,
                    found,
                });
            }
            let state = state.clone();
            files.push(OpenPages { path, file, state });
        }
        Ok(Self { files })
    }

    /// Number of page files.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Number of chunks of page file `file`.
    pub fn chunk_count(&self, file: u32) -> usize {
        self.files
            .get(file as usize)
            .map_or(0, |f| f.state.chunks.len())
    }

    /// Reads chunk `index` (bytes from `index * CHUNK_SIZE`) of page file
    /// `file` into the front of `buf`, verifies it and returns it. `buf` has
    /// room for [`CHUNK_SIZE`] bytes.
    pub fn read_chunk<'b>(
        &self,
        file: u32,
        index: usize,
        buf: &'b mut [u8],
    ) -> Result<&'b [u8], ReadError> {
        let offset = (index as u64).saturating_mul(CHUNK_SIZE);
        let pages = self.file(file, offset)?;
        let length = pages.state.chunk_length(index);
        let (Some(expected), Some(bytes)) = (pages.state.chunks.get(index), buf.get_mut(..length))
        else {
            return Err(pages.out_of_range(offset, offset.saturating_add(CHUNK_SIZE)));
        };
        pages.read(bytes, offset)?;
        if chunk_checksum(bytes) != *expected {
            return Err(ReadError::PageChecksum {
                path: pages.path.clone(),
                offset,
                end: offset + length as u64,
            });
        }
        Ok(bytes)
    }

    /// Fills `out` from byte `offset` of page file `file`, verified: whole
    /// chunks are read in place, of a chunk that is wanted in part the whole
    /// is read beside and verified.
    pub fn read_at(&self, file: u32, offset: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let pages = self.file(file, offset)?;
        let end = offset.saturating_add(out.len() as u64);
        if end > pages.state.length {
            return Err(pages.out_of_range(offset, end));
        }
        let mut scratch = Vec::new();
        let (mut at, mut rest) = (offset, out);
        while !rest.is_empty() {
            let index = (at / CHUNK_SIZE) as usize;
            let within = (at % CHUNK_SIZE) as usize;
            let length = pages.state.chunk_length(index);
            let (part, tail) = rest.split_at_mut(rest.len().min(length - within));
            if part.len() == length {
                self.read_chunk(file, index, part)?;
            } else {
                scratch.resize(length, 0);
                let chunk = self.read_chunk(file, index, &mut scratch)?;
                part.copy_from_slice(&chunk[within..within + part.len()]);
            }
            at += part.len() as u64;
            rest = tail;
        }
        Ok(())
    }

    /// Reads everything; all chunks that are damaged.
    pub(crate) fn verify(&self, progress: &mut dyn FnMut(u64)) -> Vec<ReadError> {
        let mut buf = vec![0; CHUNK_SIZE as usize];
        let mut damaged = Vec::new();
        for file in 0..self.files.len() as u32 {
            for index in 0..self.chunk_count(file) {
                match self.read_chunk(file, index, &mut buf) {
                    Ok(bytes) => progress(bytes.len() as u64),
                    Err(e) => damaged.push(e),
                }
            }
        }
        damaged
    }

    fn file(&self, file: u32, offset: u64) -> Result<&OpenPages, ReadError> {
        self.files
            .get(file as usize)
            .ok_or_else(|| ReadError::PageRange {
                path: PathBuf::from(pages_name(file as usize)),
                offset,
                end: offset,
            })
    }
}

impl OpenPages {
    fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        os::read_exact_at(&self.file, buf, offset).map_err(|source| ReadError::Io {
            path: self.path.clone(),
            source,
        })
    }

    fn out_of_range(&self, offset: u64, end: u64) -> ReadError {
        let path = self.path.clone();
        ReadError::PageRange { path, offset, end }
    }
}
