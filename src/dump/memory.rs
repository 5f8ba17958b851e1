//! An address space: areas, fields, pages.

use icecore_images::ids::MmId;

use super::DumpContext;
use crate::error::DumpError;
use crate::tracer::FrozenTask;

/// Describes the address space and notes every area that cannot be carried.
/// Copies nothing and runs nothing inside the task.
pub(crate) fn collect(ctx: &mut DumpContext<'_>, task: &FrozenTask) -> Result<MmId, DumpError> {
    let _ = (ctx, task);
    unimplemented!("collect")
}

/// Adds what only the task itself can tell (MDWE, memory policies …).
pub(crate) fn inspect(
    ctx: &mut DumpContext<'_>,
    task: &mut FrozenTask,
    mm: MmId,
) -> Result<(), DumpError> {
    let _ = (ctx, task, mm);
    unimplemented!("inspect")
}

/// Copies the pages of all address spaces, shared memory objects and ghost
/// files collected so far.
pub(crate) fn copy_pages(
    ctx: &mut DumpContext<'_>,
    tasks: &mut [FrozenTask],
) -> Result<(), DumpError> {
    let _ = (ctx, tasks);
    unimplemented!("copy")
}
