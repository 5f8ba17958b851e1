//! What a restore has done to cgroups so far. Dropped without
//! [`settle`] all of it is undone by the guardian, which also does it
//! if icecore is killed: cgroups that were made are removed, and no others;
//! properties of others are what they were.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::set::Setting;
use super::{limit, set};
use crate::error::RestoreError;
use crate::restore::RestoreContext;
use crate::tracer::{Guardian, Undo};

/// What has been done, and what is still to be done.
#[derive(Debug)]
pub(in crate::restore) struct Made {
    guardian: Guardian,
    /// Directories of cgroups that did not exist before.
    pub(super) created: BTreeSet<PathBuf>,
    /// Properties to be set when everything is filled.
    pub(super) late: Vec<Setting>,
    /// What makes everyone stand still, at the very end.
    pub(super) freezers: Vec<Setting>,
    /// Cgroup namespaces, by their index in the image.
    pub(super) namespaces: Vec<OwnedFd>,
}

impl Made {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            guardian: Guardian::spawn()?,
            created: BTreeSet::new(),
            late: Vec::new(),
            freezers: Vec::new(),
            namespaces: Vec::new(),
        })
    }

    /// Makes one cgroup; false where it exists by now.
    pub(super) fn create(&mut self, dir: &Path) -> io::Result<bool> {
        let path = dir.to_owned();
        let told = self.guardian.undo_later(&Undo::RemoveCgroup { path })?;
        match std::fs::create_dir(dir) {
            Ok(()) => {
                self.created.insert(dir.to_owned());
                Ok(true)
            }
            Err(e) => {
                self.guardian.forget(told)?;
                match e.kind() {
                    io::ErrorKind::AlreadyExists => Ok(false),
                    _ => Err(e),
                }
            }
        }
    }

    /// Tells the guardian what puts a file back that is about to be written.
    pub(super) fn write_back_later(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let (path, bytes) = (path.to_owned(), bytes.to_vec());
        self.guardian
            .undo_later(&Undo::Write { path, bytes })
            .map(drop)
    }
}

/// Sets limits, now that everything is filled and every thread exists.
pub(in crate::restore) fn apply_limits(ctx: &mut RestoreContext<'_>) -> Result<(), RestoreError> {
    let Some(made) = &mut ctx.made_cgroups else {
        return Ok(());
    };
    let late = std::mem::take(&mut made.late);
    late.iter().try_for_each(limit::make_room)?;
    first_refused(set::all(made, late))
}

/// Makes those stand still that stood still; they are about to be let go. From
/// then on everything is there to stay.
pub(in crate::restore) fn settle(ctx: &mut RestoreContext<'_>) -> Result<(), RestoreError> {
    let Some(made) = &mut ctx.made_cgroups else {
        return Ok(());
    };
    let freezers = std::mem::take(&mut made.freezers);
    first_refused(set::all(made, freezers))?;
    made.guardian
        .forget_all()
        .map_err(|source| RestoreError::Rebuild {
            what: "cgroups: tell the guardian".to_owned(),
            source,
        })
}

fn first_refused(refused: Vec<(Setting, io::Error)>) -> Result<(), RestoreError> {
    let first = refused.into_iter().next();
    first.map_or(Ok(()), |(setting, source)| Err(setting.failed(source)))
}
