//! An address space: areas, pages, fields.

use icecore_images::mm::MmState;
use icecore_images::pages::{PAGE_SIZE, PageSource};

use super::RestoreContext;
use crate::error::RestoreError;
use crate::tracer::Script;
use crate::tracer::memory::Memory;

/// Notes every obstacle: mapped files missing or changed (all at once),
/// huge pages, address space limits.
pub(crate) fn plan(ctx: &mut RestoreContext<'_>) {
    let _ = ctx;
}

/// Maps every area at its place. On entry nothing is mapped but the blob (at
/// an address free in `mm`) and the child's own `[vvar]`/`[vdso]`; on exit all
/// areas are mapped with what filling them needs, vDSO included.
pub(crate) fn map(ctx: &RestoreContext<'_>, mm: &MmState, script: &mut Script) {
    let _ = (ctx, mm, script);
}

/// Fills the pages of the task that is `pid` by now.
pub(crate) fn fill(ctx: &RestoreContext<'_>, mm: &MmState, pid: u32) -> Result<(), RestoreError> {
    let failed = |source| RestoreError::Rebuild {
        what: format!("the memory of pid {pid}"),
        source,
    };
    let memory = Memory::open(pid).map_err(failed)?;
    for extent in &mm.pages {
        let PageSource::File { file, offset } = extent.source else {
            continue;
        };
        let mut bytes = vec![0; (extent.count * PAGE_SIZE) as usize];
        ctx.pages.read_at(file, offset, &mut bytes)?;
        memory.force_write(extent.start, &bytes).map_err(failed)?;
    }
    Ok(())
}

/// Final protections, advice, locks, names, policies, mm fields and prctl
/// state of the address space, once pages are filled.
pub(crate) fn finish(ctx: &RestoreContext<'_>, mm: &MmState, script: &mut Script) {
    let _ = (ctx, mm, script);
}
