//! eventfd(2).

use icecore_images::eventfd::EventFdState;
use icecore_images::files::FileKind;

use super::DumpContext;
use super::descriptor::Descriptor;
use crate::error::DumpError;

/// The counter, and whether it is a semaphore (which Linux tells from 6.5 on).
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    d: &Descriptor,
) -> Result<Option<FileKind>, DumpError> {
    let (Some(count), Some(semaphore)) = (d.info.eventfd_count, d.info.eventfd_semaphore) else {
        let problem = "eventfd: this kernel does not tell whether it is a semaphore".to_owned();
        d.refuse(ctx, problem, Some("Linux 6.5 or later"));
        return Ok(None);
    };
    if count == u64::MAX {
        let problem = "eventfd: its counter has overflowed".to_owned();
        d.refuse(ctx, problem, Some("let the program read it first"));
        return Ok(None);
    }
    Ok(Some(FileKind::EventFd(EventFdState { count, semaphore })))
}
