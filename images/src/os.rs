//! The little that differs between operating systems: private permissions,
//! directories as files, reading at an offset.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::path::Path;

/// Creates the last component of `path`, for its owner only (0700).
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Creates a file that must not exist yet, for its owner only (0600), open for
/// reading and writing.
pub(crate) fn create_private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// A directory held open: the handle by which it is locked and synced.
#[derive(Debug)]
pub(crate) struct DirHandle {
    #[cfg(unix)]
    file: File,
}

impl DirHandle {
    #[cfg(unix)]
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self { file })
    }

    /// Takes the lock that keeps two dumps out of one directory; false: someone
    /// holds it. It goes with the handle.
    #[cfg(unix)]
    pub(crate) fn try_lock(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(std::fs::TryLockError::WouldBlock) => Ok(false),
            Err(std::fs::TryLockError::Error(e)) => Err(e),
        }
    }

    /// Makes names created in the directory durable.
    #[cfg(unix)]
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

// Other systems open no directories as files: nothing to lock or sync by.
#[cfg(not(unix))]
impl DirHandle {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        std::fs::read_dir(path).map(|_| Self {})
    }

    pub(crate) fn try_lock(&self) -> io::Result<bool> {
        Ok(true)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Fills `buf` from byte `offset` of `file`, leaving its position alone where
/// the system can.
pub(crate) fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    {
        std::os::unix::fs::FileExt::read_exact_at(file, buf, offset)
    }
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            match std::os::windows::fs::FileExt::seek_read(file, &mut buf[done..], at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => done += n,
            }
        }
        Ok(())
    }
}
