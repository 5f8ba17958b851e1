//! memfd_create(2), and other memory objects held by a descriptor.

use icecore_images::files::FileKind;

use super::DumpContext;
use super::descriptor::Descriptor;
use super::regular;
use super::shmem::{self, Found};
use crate::error::DumpError;

/// A memory object, which may be mapped as well; or a regular file after all.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    d: &Descriptor,
) -> Result<Option<FileKind>, DumpError> {
    match shmem::describe(ctx, d.link())? {
        Found::Object(id) => Ok(Some(FileKind::MemFd(id))),
        Found::Refused => Ok(None),
        Found::NotShared => regular::describe(ctx, d),
    }
}
