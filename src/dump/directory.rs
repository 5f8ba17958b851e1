//! Directories, existing or unlinked.

use icecore_images::files::FileKind;

use super::DumpContext;
use super::descriptor::Descriptor;
use super::file_ref;
use crate::error::DumpError;

/// A directory; its offset (a cookie of the file system) goes with the
/// description.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    d: &Descriptor,
) -> Result<Option<FileKind>, DumpError> {
    Ok(file_ref::describe(ctx, d.link())?.map(FileKind::Directory))
}
