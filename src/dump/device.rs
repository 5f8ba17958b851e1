//! Character devices.

use std::os::unix::fs::MetadataExt;

use icecore_images::device::{DeviceState, is_stateless};
use icecore_images::files::FileKind;

use super::DumpContext;
use super::descriptors::Collection;
use super::{file_ref, outside, tty};
use crate::error::DumpError;

/// null, zero, full, random, urandom carry no state; the others do.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    all: &Collection,
    at: usize,
) -> Result<Option<FileKind>, DumpError> {
    let d = &all.descriptors[at];
    let rdev = d.meta.rdev();
    if tty::is_one(rdev) {
        return tty::describe(ctx, all, at);
    }
    if !is_stateless(rdev) {
        return outside::refuse_device(ctx, d);
    }
    let file = file_ref::describe(ctx, d.link())?;
    Ok(file.map(|file| FileKind::Device(DeviceState { rdev, file })))
}
