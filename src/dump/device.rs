//! Character devices.

use std::os::unix::fs::MetadataExt;

use icecore_images::device::{DeviceState, is_stateless};
use icecore_images::files::FileKind;

use super::DumpContext;
use super::descriptor::Descriptor;
use super::{file_ref, outside};
use crate::error::DumpError;

/// null, zero, full, random, urandom carry no state; the others do.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    d: &Descriptor,
) -> Result<Option<FileKind>, DumpError> {
    let rdev = d.meta.rdev();
    if !is_stateless(rdev) {
        return outside::refuse_device(ctx, d);
    }
    let file = file_ref::describe(ctx, d.link())?;
    Ok(file.map(|file| FileKind::Device(DeviceState { rdev, file })))
}
