//! Descriptors, working directory and root. This module is the list; each kind
//! of descriptor has its own.

use icecore_images::task::TaskState;

use super::RestoreContext;
use super::ghost::Ghosts;
use super::shmem::Shmems;
use crate::error::RestoreError;
use crate::tracer::Script;

/// Open file descriptions opened in the root of the restore, by id.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// One descriptor of ours for each description, at its id's index.
    pub(crate) fds: Vec<Option<std::os::fd::OwnedFd>>,
}

/// Notes every obstacle: files missing or changed, all at once.
pub(crate) fn plan(ctx: &mut RestoreContext<'_>) {
    let _ = ctx;
}

/// Opens every description once.
pub(crate) fn open_all(
    ctx: &mut RestoreContext<'_>,
    shmems: &Shmems,
    ghosts: &Ghosts,
) -> Result<Opened, RestoreError> {
    let _ = (ctx, shmems, ghosts);
    Ok(Opened::default())
}

/// Places the task's descriptors at their numbers and closes all others, sets
/// working directory, root and umask; in the task, which inherited `opened`.
pub(crate) fn place(
    ctx: &RestoreContext<'_>,
    opened: &Opened,
    task: &TaskState,
    script: &mut Script,
) {
    let _ = (ctx, opened, task, script);
}

/// What needs the task's own identity and its final descriptor numbers: epoll
/// registrations, owners, timers' expiry.
pub(crate) fn finish(ctx: &RestoreContext<'_>, task: &TaskState, script: &mut Script) {
    let _ = (ctx, task, script);
}
