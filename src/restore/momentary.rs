//! Names that exist for an instant, in directories of the user's, which are as
//! they were afterwards: whatever is given a name is told to a guardian first.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use crate::tracer::{Guardian, Undo};

/// Gives names and takes them away again.
#[derive(Debug, Default)]
pub(super) struct Momentary {
    /// On watch from the first name on.
    guardian: Option<Guardian>,
}

impl Momentary {
    /// A directory that `make` makes under this name, which it then loses.
    pub(super) fn directory(
        &mut self,
        name: &Path,
        make: impl FnOnce(&Path) -> rustix::io::Result<OwnedFd>,
    ) -> std::io::Result<OwnedFd> {
        let (path, unless) = (name.to_owned(), None);
        let undo = Undo::RemoveDir { path, unless };
        self.with(name, &undo, make, |name| rustix::fs::rmdir(name))
    }

    /// The same for a file.
    pub(super) fn file(
        &mut self,
        name: &Path,
        make: impl FnOnce(&Path) -> rustix::io::Result<OwnedFd>,
    ) -> std::io::Result<OwnedFd> {
        let (path, unless) = (name.to_owned(), None);
        let undo = Undo::RemoveFile { path, unless };
        self.with(name, &undo, make, |name| rustix::fs::unlink(name))
    }

    /// Access and modification times of the directory above are put back.
    fn with(
        &mut self,
        name: &Path,
        undo: &Undo,
        make: impl FnOnce(&Path) -> rustix::io::Result<OwnedFd>,
        remove: fn(&Path) -> rustix::io::Result<()>,
    ) -> std::io::Result<OwnedFd> {
        let dir = name.parent().ok_or(rustix::io::Errno::INVAL)?;
        let before = rustix::fs::stat(dir)?;
        let guardian = match &mut self.guardian {
            Some(guardian) => guardian,
            none => none.insert(Guardian::spawn()?),
        };
        let told = guardian.undo_later(undo)?;
        let made = make(name);
        let removed = match &made {
            Ok(_) => remove(name),
            Err(_) => Ok(()),
        };
        // What could not be removed is the guardian's to remove.
        removed?;
        guardian.forget(told)?;
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: before.st_atime,
                tv_nsec: before.st_atime_nsec as i64,
            },
            last_modification: Timespec {
                tv_sec: before.st_mtime,
                tv_nsec: before.st_mtime_nsec as i64,
            },
        };
        let made = made?;
        rustix::fs::utimensat(CWD, dir, &times, AtFlags::empty())?;
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;

    const MAKE: fn(&Path) -> rustix::io::Result<OwnedFd> = |name| {
        rustix::fs::mkdir(name, Mode::RWXU)?;
        rustix::fs::openat(CWD, name, OFlags::DIRECTORY, Mode::empty())
    };

    #[test]
    fn a_name_is_gone_afterwards_and_nothing_of_others_with_it() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let name = dir.path().join("name");
        let times = |dir: &Path| std::fs::metadata(dir).and_then(|m| m.modified());
        let before = times(dir.path())?;
        let mut momentary = Momentary::default();
        let fd = momentary.directory(&name, MAKE)?;
        let link = std::fs::read_link(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&fd)
        ))?;
        assert!(link.to_string_lossy().ends_with("/name (deleted)"));
        assert!(!name.exists() && times(dir.path())? == before);

        std::fs::create_dir(&name)?;
        let taken = momentary.directory(&name, MAKE).map_err(|e| e.kind());
        assert_eq!(taken.err(), Some(std::io::ErrorKind::AlreadyExists));
        drop(momentary);
        assert!(name.exists(), "an empty directory of somebody else's");
        Ok(())
    }

    #[test]
    fn what_is_cut_short_is_undone() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let name = dir.path().join("name");
        let mut momentary = Momentary::default();
        let (path, unless) = (name.clone(), None);
        let undo = Undo::RemoveDir { path, unless };
        let cut = momentary.with(&name, &undo, MAKE, |_| Err(Errno::IO));
        assert!(cut.is_err() && name.exists());
        drop(momentary);
        assert!(!name.exists());
        Ok(())
    }
}
