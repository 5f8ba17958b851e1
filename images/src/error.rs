//! What can go wrong with an image.

use std::io;
use std::path::{Path, PathBuf};

use crate::check::CheckError;
use crate::codec::CodecError;
use crate::envelope::EnvelopeError;
use crate::manifest::ManifestError;
use crate::objects::SectionError;

/// An image could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The directory cannot be opened.
    #[error("read image {}", .dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory is no image.
    #[error("read image {}: no manifest, so this is no complete image", .dir.display())]
    NoManifest {
        /// The directory.
        dir: PathBuf,
    },
    /// A file of the image cannot be read.
    #[error("read {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something else under a file's name.
    #[error("read {}: not a regular file", .path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// The envelope is not what it should be.
    #[error("read {}: {problem}", .path.display())]
    Envelope {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: EnvelopeError,
    },
    /// A file of another image.
    #[error("read {}: belongs to another image", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A file is not what the manifest says.
    #[error("read {}: {found} bytes long, the manifest says {expected}", .path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// What the manifest says.
        expected: u64,
        /// What it has.
        found: u64,
    },
    /// A file is not what the manifest says.
    #[error("read {}: its checksum is not the manifest's", .path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
    },
    /// The manifest cannot be decoded.
    #[error("decode {}", .path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: CodecError,
    },
    /// The manifest lists what no image has.
    #[error("read {}: the manifest {problem}", .path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: ManifestError,
    },
    /// The objects file is not made of the right sections.
    #[error("decode {}", .path.display())]
    Section {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: SectionError,
    },
    /// The metadata makes no sense.
    #[error("check {}", .path.display())]
    Check {
        /// The file.
        path: PathBuf,
        /// What does not.
        #[source]
        source: CheckError,
    },
    /// Page contents are damaged.
    #[error("read {}: bytes {offset} to {end}: checksum does not match", .path.display())]
    PageChecksum {
        /// The page file.
        path: PathBuf,
        /// First byte of the chunk.
        offset: u64,
        /// First byte after it.
        end: u64,
    },
    /// Page contents were asked for that the file does not have.
    #[error("read {}: bytes {offset} to {end} are not in the file", .path.display())]
    PageRange {
        /// The page file.
        path: PathBuf,
        /// First byte.
        offset: u64,
        /// First byte after.
        end: u64,
    },
}

impl ReadError {
    /// The file or directory it is about.
    pub fn path(&self) -> &Path {
        match self {
            ReadError::Directory { dir: path, .. }
            | ReadError::NoManifest { dir: path }
            | ReadError::Io { path, .. }
            | ReadError::NotRegular { path }
            | ReadError::Envelope { path, .. }
            | ReadError::Foreign { path }
            | ReadError::Length { path, .. }
            | ReadError::Checksum { path }
            | ReadError::Decode { path, .. }
            | ReadError::Manifest { path, .. }
            | ReadError::Section { path, .. }
            | ReadError::Check { path, .. }
            | ReadError::PageChecksum { path, .. }
            | ReadError::PageRange { path, .. } => path,
        }
    }

    /// What is wrong, without the file's name.
    pub fn problem(&self) -> String {
        let text = self.to_string();
        let path = self.path().display().to_string();
        match text.split_once(&format!("{path}: ")) {
            Some((_, problem)) => problem.to_owned(),
            None => match std::error::Error::source(self) {
                Some(source) => source.to_string(),
                None => text,
            },
        }
    }

    /// What would change it.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            ReadError::Directory { source, .. } | ReadError::Io { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some("images are readable by their owner only: run as that user or as root")
            }
            ReadError::Directory { .. } => Some("give the directory that the dump wrote"),
            ReadError::NoManifest { .. } => Some(
                "a dump writes the manifest last: this one failed, was interrupted, or is not \
                 finished; dump again, or give another directory",
            ),
            ReadError::Envelope { problem, .. } => match problem {
                EnvelopeError::Version { .. } => {
                    Some("restore it with the icecore that made it, or dump again with this one")
                }
                EnvelopeError::Architecture { .. } => Some("restore it on such a machine"),
                _ => DAMAGED,
            },
            ReadError::Foreign { .. } => {
                Some("files of two images were mixed; put back the file this image was made with")
            }
            ReadError::Section {
                source: SectionError::Unknown { .. } | SectionError::Version { .. },
                ..
            } => Some("restore it with the icecore that made it, or a newer one"),
            _ => DAMAGED,
        }
    }
}

const DAMAGED: Option<&str> =
    Some("the image is damaged: take it from a copy; `icecore verify` lists what is wrong");

/// An image could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The directory holds an image.
    #[error("write image {}: there is an image already", .dir.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory holds something that is no image's.
    #[error("write image {}: the directory is not empty: {}", .dir.display(), .name.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// What is there.
        name: PathBuf,
    },
    /// Another dump is writing there.
    #[error("write image {}: another dump is writing there", .dir.display())]
    Busy {
        /// The directory.
        dir: PathBuf,
    },
    /// A step of writing failed.
    #[error("{what} {}", .path.display())]
    Io {
        /// The operation: "create", "write", "sync", "rename" …
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The metadata cannot be encoded.
    #[error("encode {}", .path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: bincode::error::EncodeError,
    },
    /// The metadata is larger than a reader accepts.
    #[error("write {}: {length} bytes of metadata, more than the {cap} an image may have",
            .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes.
        length: u64,
        /// The limit.
        cap: u64,
    },
    /// A page file is not as long as the metadata says.
    #[error("write {}: {found} bytes written, {expected} described", .path.display())]
    PageLength {
        /// The page file.
        path: PathBuf,
        /// What the metadata says.
        expected: u64,
        /// What the file has.
        found: u64,
    },
    /// Page files were written that the metadata does not describe, or the
    /// other way round.
    #[error("write image {}: {files} page files written, {described} described", .dir.display())]
    PageFiles {
        /// The directory.
        dir: PathBuf,
        /// Files written.
        files: usize,
        /// Files described.
        described: usize,
    },
    /// The metadata makes no sense: a reader would refuse it.
    #[error("write image {}", .dir.display())]
    Check {
        /// The directory.
        dir: PathBuf,
        /// What does not.
        #[source]
        source: CheckError,
    },
    /// What was written does not read back.
    #[error("read back what was written")]
    ReadBack(#[source] Box<ReadError>),
}

impl WriteError {
    /// What would change it.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            WriteError::Exists { .. } => {
                Some("give a new directory; an image is never overwritten")
            }
            WriteError::NotEmpty { .. } => Some("give an empty or a new directory"),
            WriteError::Busy { .. } => Some("wait for it, or give another directory"),
            WriteError::Check { .. } | WriteError::ReadBack(_) => {
                Some("this is a defect of icecore: please report it")
            }
            WriteError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull => Some("free space there, or give another directory"),
                io::ErrorKind::QuotaExceeded => Some("the disk quota is used up"),
                io::ErrorKind::NotFound => {
                    Some("only the last component of the directory is created")
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    Some("give a directory you may write in")
                }
                _ => None,
            },
            _ => None,
        }
    }
}
