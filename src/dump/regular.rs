//! Regular files.

use icecore_images::files::FileKind;
use rustix::fs::statfs;

use super::DumpContext;
use super::descriptor::Descriptor;
use super::descriptors::named;
use super::file_ref;
use crate::error::DumpError;

/// A regular file on a real file system. The inodes of kernel interfaces
/// (namespaces, secret memory, tracing …) look like one and are not.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    d: &Descriptor,
) -> Result<Option<FileKind>, DumpError> {
    let system = statfs(&d.link).map_err(|e| d.error("file system", e.into()))?;
    if let Some(what) = pseudo_file_system(system.f_type as u32) {
        let problem = format!("{} is {what}", named(d));
        d.refuse(ctx, problem, Some("let the program close it"));
        return Ok(None);
    }
    if !d.shown_bytes().starts_with(b"/") {
        d.refuse(ctx, format!("{} has no path", named(d)), None);
        return Ok(None);
    }
    Ok(file_ref::describe(ctx, d.link())?.map(FileKind::Regular))
}

/// Kernel interfaces by the magic number of their file system.
fn pseudo_file_system(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6e73_6673 => "a namespace",
        0x5345_434d => "secret memory (memfd_secret)",
        0x6462_6720 => "a file of debugfs",
        0x7472_6163 => "a file of tracefs",
        0xcafe_4a11 => "a BPF object",
        0x7363_6673 => "a file of securityfs",
        0x1980_0202 => "a POSIX message queue",
        0xde5e_81e4 => "a file of efivarfs",
        0x6265_6570 => "a file of configfs",
        0x6165_676c => "a file of pstore",
        0x0bad_1dea => "a futex file",
        0x5041_5353 => "an inode without a file system",
        _ => return None,
    })
}
