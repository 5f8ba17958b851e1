//! Descriptors, working directory and root. This module is the list; each kind
//! of descriptor has its own.

use icecore_images::ids::{FdTableId, FsId};

use super::DumpContext;
use crate::error::DumpError;
use crate::tracer::FrozenTask;

/// Describes the task's descriptors and notes every one that cannot be
/// carried. Runs nothing inside the task and changes nothing.
pub(crate) fn collect(
    ctx: &mut DumpContext<'_>,
    task: &FrozenTask,
) -> Result<(FdTableId, FsId), DumpError> {
    let _ = (ctx, task);
    unimplemented!("collect")
}
