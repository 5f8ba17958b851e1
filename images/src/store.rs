//! Writing an image. Files are written under temporary names, synced, renamed;
//! the manifest comes last, after everything it lists has been read back.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::checkpoint::Checkpoint;
use crate::codec;
use crate::directory::Directory;
use crate::envelope::{self, ImageId, Kind};
use crate::error::WriteError;
use crate::manifest::{
    MANIFEST, MAX_PAGE_FILES, Manifest, ManifestEntry, OBJECTS, pages_name, temporary_name,
};
use crate::objects;
use crate::os;
use crate::reader::Image;

/// A step of writing that has just been done. Whoever observes a writer can be
/// killed at each: at no step is there a directory that passes for an image
/// and is none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The directory is there, locked and free of leftovers.
    Directory,
    /// This file has been created under its temporary name.
    Created(String),
    /// This file's contents have been written.
    Written(String),
    /// This file has been synced.
    Synced(String),
    /// This file has got its name.
    Renamed(String),
    /// What was written has been read back.
    ReadBack,
    /// The directory has been synced.
    DirectorySynced,
    /// The directory's parent has been synced.
    ParentSynced,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Directory => write!(f, "directory ready"),
            Step::Created(name) => write!(f, "{name} created"),
            Step::Written(name) => write!(f, "{name} written"),
            Step::Synced(name) => write!(f, "{name} synced"),
            Step::Renamed(name) => write!(f, "{name} renamed"),
            Step::ReadBack => write!(f, "read back"),
            Step::DirectorySynced => write!(f, "directory synced"),
            Step::ParentSynced => write!(f, "parent directory synced"),
        }
    }
}

type Observer = Box<dyn FnMut(&Step) + Send>;

/// How an image is to be written.
#[derive(Default)]
pub struct WriteOptions {
    /// Names of files of icecore's own (a log file, a pid file) that may be in
    /// the directory beside those that are always tolerated (see
    /// [`ImageWriter::create`]).
    pub beside: Vec<OsString>,
    /// Called after every step.
    pub observer: Option<Observer>,
}

/// An image being written. Dropped before [`commit`](Self::commit) has
/// succeeded, it removes all it has written.
pub struct ImageWriter {
    directory: Directory,
    id: ImageId,
    pages: Vec<File>,
    observer: Option<Observer>,
    /// Names in the directory that go away if this is dropped.
    doomed: Vec<String>,
}

/// What a commit has written, and what it cost.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The image's id.
    pub id: ImageId,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Time spent encoding, writing and reading back metadata.
    pub write: Duration,
    /// Time spent syncing.
    pub sync: Duration,
}

impl ImageWriter {
    /// Makes `dir` ready for an image; its last component is created (0700) if
    /// it is missing.
    ///
    /// A directory with a manifest, or one that another dump writes in, is
    /// refused. What a failed dump left there (`objects`, `pages-N` and their
    /// temporary names) is removed. Files that belong beside an image stay:
    /// `*.log`, `*.pid`, `pidfile`, `stats.json`, `stats-restore.json`,
    /// `lost+found`. Anything else is refused by name.
    pub fn create(dir: &Path) -> Result<Self, WriteError> {
        Self::create_with(dir, WriteOptions::default())
    }

    /// The same with options.
    pub fn create_with(dir: &Path, options: WriteOptions) -> Result<Self, WriteError> {
        let directory = Directory::prepare(dir, &options.beside)?;
        let mut writer = Self {
            directory,
            id: ImageId::random(),
            pages: Vec::new(),
            observer: options.observer,
            doomed: Vec::new(),
        };
        writer.done(Step::Directory);
        Ok(writer)
    }

    /// The id that its files carry.
    pub fn id(&self) -> ImageId {
        self.id
    }

    /// Creates page file `n` (0, 1, 2 … in this order) under its temporary
    /// name. It may be written through the returned handle, and clones of it,
    /// from any number of threads until the commit.
    pub fn page_file(&mut self, n: u32) -> Result<File, WriteError> {
        if n as usize != self.pages.len() || self.pages.len() >= MAX_PAGE_FILES {
            return Err(WriteError::PageFiles {
                dir: self.directory.path.clone(),
                files: n as usize + 1,
                described: self.pages.len() + 1,
            });
        }
        let name = pages_name(n as usize);
        let file = self.create_file(&name)?;
        let clone = file
            .try_clone()
            .map_err(|e| self.error("create", &name, e))?;
        self.pages.push(file);
        Ok(clone)
    }

    /// Makes the directory an image: writes all metadata, syncs, renames, reads
    /// back, and puts the manifest in place. On an error nothing remains.
    pub fn commit(mut self, checkpoint: &Checkpoint) -> Result<Committed, WriteError> {
        let start = Instant::now();
        let mut sync = Duration::ZERO;
        self.check(checkpoint)?;
        self.check_page_files(checkpoint)?;
        let objects = self.seal_objects(checkpoint)?;
        let manifest = manifest(&objects, checkpoint);
        let objects_file = self.write_file(OBJECTS, &objects)?;
        sync += self.settle(OBJECTS, &objects_file)?;
        for (n, file) in std::mem::take(&mut self.pages).into_iter().enumerate() {
            sync += self.settle(&pages_name(n), &file)?;
        }
        sync += self.sync_directory()?;
        let sealed = self.seal_manifest(&manifest)?;
        let manifest_file = self.write_file(MANIFEST, &sealed)?;
        self.read_back()?;
        sync += self.settle(MANIFEST, &manifest_file)?;
        sync += self.sync_directory()?;
        sync += self.sync_parent()?;
        self.doomed.clear();
        self.directory.keep();
        let listed: u64 = manifest.files.iter().map(|f| f.length).sum();
        Ok(Committed {
            id: self.id,
            bytes: listed + sealed.len() as u64,
            write: start.elapsed().saturating_sub(sync),
            sync,
        })
    }

    fn check(&self, checkpoint: &Checkpoint) -> Result<(), WriteError> {
        let dir = || self.directory.path.clone();
        checkpoint
            .check()
            .map_err(|source| WriteError::Check { dir: dir(), source })
    }

    fn check_page_files(&self, checkpoint: &Checkpoint) -> Result<(), WriteError> {
        let described = checkpoint.page_files.len();
        if self.pages.len() != described {
            return Err(WriteError::PageFiles {
                dir: self.directory.path.clone(),
                files: self.pages.len(),
                described,
            });
        }
        for (n, (file, state)) in self.pages.iter().zip(&checkpoint.page_files).enumerate() {
            let name = pages_name(n);
            let metadata = file.metadata().map_err(|e| self.error("stat", &name, e))?;
            let (expected, found) = (state.length, metadata.len());
            if expected != found {
                return Err(WriteError::PageLength {
                    path: self.directory.path.join(name),
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }

    fn seal_objects(&self, checkpoint: &Checkpoint) -> Result<Vec<u8>, WriteError> {
        self.seal(Kind::Objects, OBJECTS, objects::encode(checkpoint))
    }

    fn seal_manifest(&self, manifest: &Manifest) -> Result<Vec<u8>, WriteError> {
        self.seal(Kind::Manifest, MANIFEST, codec::encode(manifest))
    }

    fn seal(
        &self,
        kind: Kind,
        name: &str,
        body: Result<Vec<u8>, bincode::error::EncodeError>,
    ) -> Result<Vec<u8>, WriteError> {
        let path = self.directory.path.join(name);
        let body = body.map_err(|source| WriteError::Encode {
            path: path.clone(),
            source,
        })?;
        let (length, cap) = (body.len() as u64, kind.cap());
        if length > cap {
            return Err(WriteError::TooLarge { path, length, cap });
        }
        Ok(envelope::seal(kind, self.id, &body))
    }

    fn create_file(&mut self, name: &str) -> Result<File, WriteError> {
        let temporary = temporary_name(name);
        let file = os::create_private_file(&self.directory.path.join(&temporary))
            .map_err(|e| self.error("create", name, e))?;
        self.doomed.push(temporary);
        self.done(Step::Created(name.to_owned()));
        Ok(file)
    }

    fn write_file(&mut self, name: &str, bytes: &[u8]) -> Result<File, WriteError> {
        let mut file = self.create_file(name)?;
        file.write_all(bytes)
            .map_err(|e| self.error("write", name, e))?;
        self.done(Step::Written(name.to_owned()));
        Ok(file)
    }

    /// Syncs a file and gives it its name.
    fn settle(&mut self, name: &str, file: &File) -> Result<Duration, WriteError> {
        let start = Instant::now();
        file.sync_all().map_err(|e| self.error("sync", name, e))?;
        let elapsed = start.elapsed();
        self.done(Step::Synced(name.to_owned()));
        let (from, to) = (
            self.directory.path.join(temporary_name(name)),
            self.directory.path.join(name),
        );
        fs::rename(from, to).map_err(|e| self.error("rename", name, e))?;
        self.doomed.push(name.to_owned());
        self.done(Step::Renamed(name.to_owned()));
        Ok(elapsed)
    }

    fn sync_directory(&mut self) -> Result<Duration, WriteError> {
        let start = Instant::now();
        self.directory.sync()?;
        let elapsed = start.elapsed();
        self.done(Step::DirectorySynced);
        Ok(elapsed)
    }

    fn sync_parent(&mut self) -> Result<Duration, WriteError> {
        let start = Instant::now();
        if self.directory.sync_parent()? {
            self.done(Step::ParentSynced);
        }
        Ok(start.elapsed())
    }

    /// The image as a reader sees it, while its manifest still has its
    /// temporary name.
    fn read_back(&mut self) -> Result<(), WriteError> {
        Image::open_as(&self.directory.path, &temporary_name(MANIFEST))
            .map_err(|e| WriteError::ReadBack(Box::new(e)))?;
        self.done(Step::ReadBack);
        Ok(())
    }

    fn done(&mut self, step: Step) {
        if let Some(observer) = &mut self.observer {
            observer(&step);
        }
    }

    fn error(&self, what: &'static str, name: &str, source: io::Error) -> WriteError {
        let path = self.directory.path.join(name);
        WriteError::Io { what, path, source }
    }
}

impl Drop for ImageWriter {
    /// Without a commit: the manifest goes first, so that at no moment a
    /// manifest stands over missing files.
    fn drop(&mut self) {
        for name in self.doomed.iter().rev() {
            // A file that is gone already, or cannot be removed: the next dump
            // into this directory knows it by its name.
            let _ = fs::remove_file(self.directory.path.join(name));
        }
    }
}

impl fmt::Debug for ImageWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageWriter")
            .field("directory", &self.directory)
            .field("id", &self.id)
            .field("page_files", &self.pages.len())
            .finish_non_exhaustive()
    }
}

fn manifest(objects: &[u8], checkpoint: &Checkpoint) -> Manifest {
    let mut files = vec![ManifestEntry {
        name: OBJECTS.to_owned(),
        length: objects.len() as u64,
        checksum: crc32fast::hash(objects),
    }];
    for (n, file) in checkpoint.page_files.iter().enumerate() {
        files.push(ManifestEntry {
            name: pages_name(n),
            length: file.length,
            checksum: file.checksum(),
        });
    }
    Manifest { files }
}

/// Writes a file beside an image (`stats.json`), whole or not at all. It is no
/// part of the image and is not synced.
pub fn write_beside(dir: &Path, name: &str, contents: &[u8]) -> io::Result<PathBuf> {
    let (temporary, path) = (dir.join(temporary_name(name)), dir.join(name));
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let written = os::create_private_file(&temporary)
        .and_then(|mut file| file.write_all(contents))
        .and_then(|()| fs::rename(&temporary, &path));
    if let Err(e) = written {
        let _ = fs::remove_file(&temporary);
        return Err(e);
    }
    Ok(path)
}
