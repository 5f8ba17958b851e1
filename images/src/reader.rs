//! Reading an image: manifest, envelope, metadata, pages. Nothing in it is
//! trusted before it has been checked.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::Checkpoint;
use crate::codec;
use crate::envelope::{ENVELOPE_SIZE, EnvelopeError, Header, ImageId, Kind};
use crate::error::ReadError;
use crate::manifest::{MANIFEST, Manifest, ManifestEntry, OBJECTS};
use crate::objects;
use crate::os;
use crate::page_reader::PageReader;

/// An image whose metadata is read and checked, with its page files open.
#[derive(Debug)]
pub struct Image {
    /// Its directory.
    pub dir: PathBuf,
    /// The id its files carry.
    pub id: ImageId,
    /// The format version of its manifest, major and minor.
    pub version: (u16, u16),
    /// Its files.
    pub manifest: Manifest,
    /// All metadata.
    pub checkpoint: Checkpoint,
    /// Page contents.
    pub pages: PageReader,
}

impl Image {
    /// Reads all metadata of the image in `dir` and checks it; of page files
    /// the lengths only, their contents are verified as they are read.
    pub fn open(dir: &Path) -> Result<Self, ReadError> {
        Self::open_as(dir, MANIFEST)
    }

    /// The same with the manifest under another name: how a writer looks at its
    /// work before it declares it an image.
    pub(crate) fn open_as(dir: &Path, manifest_name: &str) -> Result<Self, ReadError> {
        let (header, manifest) = read_manifest(dir, manifest_name)?;
        let Header { id, version, .. } = header;
        let checkpoint = read_objects(dir, id, &manifest)?;
        if let Err(source) = checkpoint.check() {
            let path = dir.join(OBJECTS);
            return Err(ReadError::Check { path, source });
        }
        let problem = manifest.check_page_files(&checkpoint.page_files).err();
        if let Some(problem) = problem {
            let path = dir.join(manifest_name);
            return Err(ReadError::Manifest { path, problem });
        }
        let pages = PageReader::open(dir, &checkpoint.page_files)?;
        Ok(Self {
            dir: dir.to_owned(),
            id,
            version,
            manifest,
            checkpoint,
            pages,
        })
    }

    /// Bytes of all its files but the manifest.
    pub fn bytes(&self) -> u64 {
        self.manifest.files.iter().map(|f| f.length).sum()
    }

    /// Reads every byte of its pages; all chunks that are damaged. `progress`
    /// is told the bytes of each chunk done.
    pub fn verify(&self, progress: &mut dyn FnMut(u64)) -> Vec<ReadError> {
        self.pages.verify(progress)
    }
}

fn read_manifest(dir: &Path, name: &str) -> Result<(Header, Manifest), ReadError> {
    std::fs::read_dir(dir).map_err(|source| ReadError::Directory {
        dir: dir.to_owned(),
        source,
    })?;
    let path = dir.join(name);
    let (header, bytes) = read_enveloped(&path, Kind::Manifest).map_err(|e| match e {
        ReadError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            let dir = dir.to_owned();
            ReadError::NoManifest { dir }
        }
        e => e,
    })?;
    let body = body_of(&path, header, &bytes)?;
    let manifest: Manifest = codec::decode(body).map_err(|source| ReadError::Decode {
        path: path.clone(),
        source,
    })?;
    match manifest.check() {
        Ok(()) => Ok((header, manifest)),
        Err(problem) => Err(ReadError::Manifest { path, problem }),
    }
}

fn read_objects(dir: &Path, id: ImageId, manifest: &Manifest) -> Result<Checkpoint, ReadError> {
    // `Manifest::check` has seen to it that the first file is the objects file.
    let Some(entry) = manifest.files.first() else {
        let dir = dir.to_owned();
        return Err(ReadError::NoManifest { dir });
    };
    let path = dir.join(&entry.name);
    let (header, bytes) = read_enveloped(&path, Kind::Objects)?;
    let body = body_of(&path, header, &bytes)?;
    if header.id != id {
        return Err(ReadError::Foreign { path });
    }
    compare(&path, &bytes, entry)?;
    objects::decode(body).map_err(|source| ReadError::Section { path, source })
}

/// The file is the one that the manifest lists.
fn compare(path: &Path, bytes: &[u8], entry: &ManifestEntry) -> Result<(), ReadError> {
    let path = path.to_owned();
    let (found, expected) = (bytes.len() as u64, entry.length);
    if found != expected {
        return Err(ReadError::Length {
            path,
            expected,
            found,
        });
    }
    if crc32fast::hash(bytes) != entry.checksum {
        return Err(ReadError::Checksum { path });
    }
    Ok(())
}

/// Reads a whole file once its envelope says that this is worth while: the
/// memory it takes is bounded by the file's own length and by its kind's cap.
fn read_enveloped(path: &Path, kind: Kind) -> Result<(Header, Vec<u8>), ReadError> {
    let io_error = |source| ReadError::Io {
        path: path.to_owned(),
        source,
    };
    let (file, found) = open_regular(path)?;
    let mut start = vec![0; found.min(ENVELOPE_SIZE as u64) as usize];
    os::read_exact_at(&file, &mut start, 0).map_err(io_error)?;
    let header = Header::parse(kind, &start).map_err(|problem| envelope(path, problem))?;
    let expected = ENVELOPE_SIZE as u64 + header.length;
    if found != expected {
        return Err(envelope(path, EnvelopeError::Length { expected, found }));
    }
    let mut bytes = vec![0; found as usize];
    os::read_exact_at(&file, &mut bytes, 0).map_err(io_error)?;
    Ok((header, bytes))
}

fn body_of<'a>(path: &Path, header: Header, bytes: &'a [u8]) -> Result<&'a [u8], ReadError> {
    header
        .body(bytes)
        .map_err(|problem| envelope(path, problem))
}

fn envelope(path: &Path, problem: EnvelopeError) -> ReadError {
    let path = path.to_owned();
    ReadError::Envelope { path, problem }
}

/// Opens a file that is one (opening a FIFO would wait for a writer), and its
/// length.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64), ReadError> {
    let io_error = |source| ReadError::Io {
        path: path.to_owned(),
        source,
    };
    let found = std::fs::symlink_metadata(path).map_err(io_error)?;
    if !found.is_file() {
        let path = path.to_owned();
        return Err(ReadError::NotRegular { path });
    }
    let file = File::open(path).map_err(io_error)?;
    let length = file.metadata().map_err(io_error)?.len();
    Ok((file, length))
}
