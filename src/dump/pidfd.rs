//! pidfd_open(2).

use icecore_images::files::FileKind;
use icecore_images::pidfd::PidFdState;

use super::DumpContext;
use super::descriptor::Descriptor;
use super::outside;
use crate::error::DumpError;

/// PIDFD_THREAD is O_EXCL.
const PIDFD_THREAD: u32 = libc::O_EXCL as u32;

/// A pidfd of a task of the dump or of one of its threads.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    d: &Descriptor,
) -> Result<Option<FileKind>, DumpError> {
    let Some(number) = d.info.pid else {
        return outside::refuse_anonymous(ctx, d);
    };
    let pid = u32::try_from(number).unwrap_or(0);
    let thread = d.flags() & PIDFD_THREAD != 0;
    if ctx.members.has_process(pid) || thread && ctx.members.has_thread(pid) {
        return Ok(Some(FileKind::PidFd(PidFdState { pid, thread })));
    }
    let problem = match number {
        ..=0 => "pidfd of a process that has ended".to_owned(),
        _ => format!("pidfd of {}, outside the dump", outside::process(pid)),
    };
    d.refuse(ctx, problem, Some("let the program close it"));
    Ok(None)
}
