//! O_PATH descriptors of anything.

use icecore_images::files::FileKind;

use super::DumpContext;
use super::descriptor::Descriptor;
use super::descriptors::named;
use super::{file_ref, proc_file};
use crate::error::DumpError;

/// Names an object without opening it: only where it lies is carried.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    d: &Descriptor,
) -> Result<Option<FileKind>, DumpError> {
    if proc_file::is_one(d) {
        return proc_file::describe(ctx, d);
    }
    if !d.shown_bytes().starts_with(b"/") {
        let problem = format!("O_PATH descriptor of {}, which has no path", named(d));
        d.refuse(ctx, problem, None);
        return Ok(None);
    }
    Ok(file_ref::describe(ctx, d.link())?.map(FileKind::PathOnly))
}
