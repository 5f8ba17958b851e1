//! A task's own state: what is neither memory nor descriptors. This module is
//! the list; each resource has its own.

use icecore_images::ids::{FdTableId, FsId, MmId};
use icecore_images::task::TaskState;

use super::DumpContext;
use crate::error::DumpError;
use crate::tracer::FrozenTask;

/// What the other rooms have found for a task, referred to by its state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shared {
    pub(crate) mm: MmId,
    pub(crate) fd_table: FdTableId,
    pub(crate) fs: FsId,
}

/// Gathers what can be seen from outside, and every blocker, without running
/// anything inside the task.
pub(crate) fn collect(
    ctx: &mut DumpContext<'_>,
    task: &FrozenTask,
    shared: Shared,
) -> Result<TaskState, DumpError> {
    let _ = (ctx, task, shared);
    unimplemented!("collect")
}

/// Fills in what only the task itself can tell.
pub(crate) fn inspect(
    ctx: &mut DumpContext<'_>,
    task: &mut FrozenTask,
    state: &mut TaskState,
) -> Result<(), DumpError> {
    let _ = (ctx, task, state);
    unimplemented!("inspect")
}
