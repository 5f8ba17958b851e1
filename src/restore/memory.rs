//! An address space: areas, pages, fields.

use icecore_images::mm::MmState;

use super::RestoreContext;
use crate::tracer::Script;

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

/// Final protections, advice, locks, names, policies, mm fields and prctl
/// state of the address space, once pages are filled.
pub(crate) fn finish(ctx: &RestoreContext<'_>, mm: &MmState, script: &mut Script) {
    let _ = (ctx, mm, script);
}
