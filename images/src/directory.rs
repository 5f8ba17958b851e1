//! The directory an image is written in: made ready, locked against a second
//! dump, and left as it was found when the dump fails.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::WriteError;
use crate::manifest::{MANIFEST, OBJECTS};
use crate::os::{self, DirHandle};

/// A directory ready to be written in.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    handle: DirHandle,
    /// It was created for this image.
    new: bool,
    /// It stays, because there is an image in it.
    keep: bool,
}

impl Directory {
    pub(crate) fn prepare(path: &Path, beside: &[OsString]) -> Result<Self, WriteError> {
        let error = |what, source| {
            let path = path.to_owned();
            WriteError::Io { what, path, source }
        };
        let new = match os::create_private_dir(path) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(error("create directory", e)),
        };
        let handle = DirHandle::open(path).map_err(|e| error("open directory", e))?;
        let directory = Self {
            path: path.to_owned(),
            handle,
            new,
            keep: false,
        };
        match directory.handle.try_lock() {
            Ok(true) => directory.clear(beside)?,
            Ok(false) => {
                let dir = path.to_owned();
                return Err(WriteError::Busy { dir });
            }
            Err(e) => return Err(error("lock directory", e)),
        }
        Ok(directory)
    }

    /// Looks at everything before it removes anything.
    fn clear(&self, beside: &[OsString]) -> Result<(), WriteError> {
        let error = |what, path: &Path, source| {
            let path = path.to_owned();
            WriteError::Io { what, path, source }
        };
        let dir = &self.path;
        let mut leftovers = Vec::new();
        let entries = fs::read_dir(dir).map_err(|e| error("read directory", dir, e))?;
        for entry in entries {
            let entry = entry.map_err(|e| error("read directory", dir, e))?;
            let name = entry.file_name();
            let is_file = entry.file_type().is_ok_and(|t| t.is_file());
            if name == MANIFEST {
                let dir = dir.clone();
                return Err(WriteError::Exists { dir });
            } else if is_file && is_leftover(&name) {
                leftovers.push(entry.path());
            } else if !belongs_beside(&name) && !beside.contains(&name) {
                return Err(WriteError::NotEmpty {
                    dir: dir.clone(),
                    name: name.into(),
                });
            }
        }
        for path in leftovers {
            fs::remove_file(&path).map_err(|e| error("remove", &path, e))?;
        }
        Ok(())
    }

    pub(crate) fn sync(&self) -> Result<(), WriteError> {
        self.handle.sync().map_err(|source| WriteError::Io {
            what: "sync directory",
            path: self.path.clone(),
            source,
        })
    }

    /// Syncs the directory's own name: it may have been created for this image
    /// (by this, or for a log file before). False: it could not be, because the
    /// parent may be written in but not read.
    pub(crate) fn sync_parent(&self) -> Result<bool, WriteError> {
        let parent = match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            Some(_) => Path::new("."),
            None => return Ok(false),
        };
        let synced = DirHandle::open(parent).and_then(|handle| handle.sync());
        match synced {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(false),
            Err(source) => Err(WriteError::Io {
                what: "sync directory",
                path: parent.to_owned(),
                source,
            }),
        }
    }

    /// There is an image in it now.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.new && !self.keep {
            // Fails where something is in it (a log file), and then it stays.
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// What a dump and a restore cost.
const STATS: [&str; 2] = ["stats.json", "stats-restore.json"];

/// Names that only a dump that failed leaves behind.
fn is_leftover(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    let temporary = name.strip_prefix('.').and_then(|n| n.strip_suffix(".tmp"));
    let is_pages = |n: &str| {
        n.strip_prefix("pages-")
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    match temporary {
        Some(n) => n == MANIFEST || n == OBJECTS || STATS.contains(&n) || is_pages(n),
        None => name == OBJECTS || is_pages(name),
    }
}

/// Names of files that icecore's options put beside an image.
fn belongs_beside(name: &OsStr) -> bool {
    let extension = Path::new(name).extension();
    STATS.iter().any(|stats| name == *stats)
        || name == "pidfile"
        || name == "lost+found"
        || extension.is_some_and(|e| e == "log" || e == "pid")
}
