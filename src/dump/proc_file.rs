//! Files of `/proc`, `/sys` and the cgroup file systems.

use std::os::unix::ffi::OsStrExt;

use icecore_images::files::FileKind;
use icecore_images::proc_file::ProcFileState;
use rustix::fs::statfs;

use super::DumpContext;
use super::descriptor::Descriptor;
use super::descriptors::named;
use super::{file_ref, outside};
use crate::error::DumpError;

const PROC: u32 = 0x9fa0;
const SYSFS: u32 = 0x6265_6572;
const CGROUP: u32 = 0x0027_e0eb;
const CGROUP2: u32 = 0x6367_7270;

/// Whether it lies in one of these file systems.
pub(super) fn is_one(d: &Descriptor) -> bool {
    let path = d.shown.as_os_str().as_bytes();
    path.starts_with(b"/")
        && statfs(&d.link).is_ok_and(|s| matches!(s.f_type as u32, PROC | SYSFS | CGROUP | CGROUP2))
}

/// A file about a task of the dump or about the machine. One about another
/// process is gone or means another process when the task wakes up.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    d: &Descriptor,
) -> Result<Option<FileKind>, DumpError> {
    if let Some(pid) = process_of(d.shown_bytes()).filter(|&pid| !ctx.members.has_process(pid)) {
        let problem = format!(
            "{} is about {}, outside the dump",
            named(d),
            outside::process(pid)
        );
        d.refuse(ctx, problem, Some("let the program close it"));
        return Ok(None);
    }
    if !file_ref::is_at(&d.shown, &d.meta) {
        let problem = format!("{} is not there any more", named(d));
        d.refuse(ctx, problem, Some("let the program close it"));
        return Ok(None);
    }
    Ok(Some(FileKind::Proc(ProcFileState {
        path: d.shown_bytes().into(),
        directory: d.meta.is_dir(),
    })))
}

/// The process a path below `/proc` is about.
fn process_of(path: &[u8]) -> Option<u32> {
    let name = path.strip_prefix(b"/proc/")?.split(|&b| b == b'/').next()?;
    std::str::from_utf8(name).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::process_of;

    #[test]
    fn only_numbers_are_processes() {
        assert_eq!(process_of(b"/proc/12/status"), Some(12));
        assert_eq!(process_of(b"/proc/12"), Some(12));
        assert_eq!(process_of(b"/proc/meminfo"), None);
        assert_eq!(process_of(b"/sys/12"), None);
    }
}
