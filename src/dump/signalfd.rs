//! signalfd(2).

use icecore_images::files::FileKind;
use icecore_images::signalfd::SignalFdState;

use super::DumpContext;
use super::descriptor::Descriptor;
use super::outside;
use crate::error::DumpError;

/// The signals it reads. What it would read next are the pending signals of
/// whoever reads, which are carried with the threads.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    d: &Descriptor,
) -> Result<Option<FileKind>, DumpError> {
    match d.info.sigmask {
        Some(mask) => Ok(Some(FileKind::SignalFd(SignalFdState { mask }))),
        None => outside::refuse_anonymous(ctx, d),
    }
}
