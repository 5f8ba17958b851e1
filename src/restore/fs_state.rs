//! Working directory, root, umask.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use icecore_images::files::FsState;
use icecore_images::ids::FsId;
use icecore_images::regular::FileRef;
use icecore_images::task::TaskState;
use rustix::fs::OFlags;

use super::descriptors::values;
use super::ghost::Ghosts;
use super::numbers::Numbers;
use super::{RestoreContext, file_ref};
use crate::error::RestoreError;
use crate::tracer::Script;

/// The directories of an fs struct, open.
#[derive(Debug)]
pub(super) struct Directories {
    id: FsId,
    cwd: OwnedFd,
    /// Where it is not the root that we have ourselves.
    root: Option<OwnedFd>,
}

impl Directories {
    /// Our numbers of them.
    pub(super) fn numbers(&self) -> Vec<u32> {
        let fds = [Some(&self.cwd), self.root.as_ref()];
        fds.into_iter()
            .flatten()
            .map(|fd| fd.as_raw_fd() as u32)
            .collect()
    }
}

/// Whether entering it needs CAP_SYS_CHROOT.
pub(super) fn is_other_root(root: &FileRef) -> bool {
    let of = |path: &std::path::Path| std::fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    root.ghost.is_some() || of(file_ref::path(root)) != of("/".as_ref())
}

/// Opens the directories of all fs structs.
pub(super) fn open_all(
    ctx: &RestoreContext<'_>,
    ghosts: &Ghosts,
    numbers: &mut Numbers,
) -> Result<Vec<Directories>, RestoreError> {
    let mut open = |what: &str, file: &FileRef| {
        file_ref::open(ghosts, file, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(Into::into)
            .and_then(|fd| numbers.lift(fd))
            .map_err(|source| RestoreError::Rebuild {
                what: format!("{what} {}", file.path),
                source,
            })
    };
    let mut all = Vec::new();
    for fs in &ctx.image.fs {
        all.push(Directories {
            id: fs.id,
            cwd: open("working directory", &fs.cwd)?,
            root: match is_other_root(&fs.root) {
                true => Some(open("root directory", &fs.root)?),
                false => None,
            },
        });
    }
    Ok(all)
}

/// Those of a task.
pub(super) fn of_task<'a>(all: &'a [Directories], task: &TaskState) -> Option<&'a Directories> {
    all.iter().find(|d| d.id == task.fs)
}

/// Enters them, in the task, and closes our descriptors of them.
pub(super) fn enter(
    ctx: &RestoreContext<'_>,
    task: &TaskState,
    directories: &Directories,
    script: &mut Script,
) {
    if let Some(root) = &directories.root {
        fchdir(root, "go to the root directory", script);
        let dot = script.c_string(b".");
        script.call("change the root", libc::SYS_chroot as u32, [dot]);
    }
    fchdir(&directories.cwd, "go to the working directory", script);
    for number in directories.numbers() {
        let args = values([number.into()]);
        script.call("close a directory", libc::SYS_close as u32, args);
    }
    let umask = ctx
        .image
        .fs
        .iter()
        .find(|fs| fs.id == task.fs)
        .map(|fs: &FsState| fs.umask);
    let args = values([umask.unwrap_or(0o022).into()]);
    script.call("set the umask", libc::SYS_umask as u32, args);
}

fn fchdir(fd: &OwnedFd, what: &'static str, script: &mut Script) {
    let args = values([fd.as_raw_fd() as u64]);
    script.call(what, libc::SYS_fchdir as u32, args);
}
