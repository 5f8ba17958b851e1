//! Shared memory objects: what shared anonymous areas and memfds have in
//! common. An object may be mapped, open, or both; whoever comes first
//! describes it.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use icecore_images::ids::ShmemId;
use icecore_images::shmem::{ShmemKind, ShmemState};

use super::DumpContext;
use super::file_ref::Link;
use super::sysv_shm;
use crate::error::DumpError;
use crate::kernel::shared_memory;

/// Objects found so far.
#[derive(Debug, Default)]
pub(crate) struct Shmems {
    /// By device, inode and whether it is a System V segment: those have numbers
    /// of their own as inodes.
    seen: HashMap<(u64, u64, bool), ShmemId>,
    /// Each object open for reading, at its id's index.
    pub(super) sources: Vec<File>,
    /// `st_dev` of the kernel's own objects of ordinary pages.
    internal_device: Option<u64>,
}

/// What a link to a shared memory object leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// A shared memory object, now described.
    Object(ShmemId),
    /// A shared memory object of a kind that cannot be carried (noted).
    Refused,
    /// An ordinary file.
    NotShared,
}

/// Describes the shared memory object behind `link`, if it is one.
pub(crate) fn describe(ctx: &mut DumpContext<'_>, link: Link<'_>) -> Result<Found, DumpError> {
    let read = |source| DumpError::Read {
        pid: link.pid,
        what: link.path.display().to_string(),
        source,
    };
    let shown = std::fs::read_link(link.path).map_err(read)?;
    let Some(name) = shown.as_os_str().as_bytes().strip_suffix(b" (deleted)") else {
        return Ok(Found::NotShared);
    };
    if !INTERNAL_NAMES.iter().any(|prefix| name.starts_with(prefix)) {
        return Ok(Found::NotShared);
    }
    let meta = std::fs::metadata(link.path).map_err(read)?;
    let key = (meta.dev(), meta.ino(), name.starts_with(sysv_shm::NAME));
    if let Some(&id) = ctx.tables.shmem_refs.seen.get(&key) {
        return Ok(Found::Object(id));
    }
    let source = File::open(link.path).map_err(read)?;
    let huge = shared_memory::huge_page_size(&source).map_err(read)?;
    let internal = huge.is_some() || meta.dev() == internal_device(ctx).map_err(read)?;
    if !internal || meta.nlink() != 0 {
        return Ok(Found::NotShared);
    }
    let Some(kind) = kind(name, &meta, &source, huge) else {
        let (problem, help) = refusal(name, huge);
        ctx.block(link.place.clone(), problem, help);
        return Ok(Found::Refused);
    };
    Ok(Found::Object(remember(ctx, key, &meta, kind, source)))
}

/// Why an object of no known kind cannot be carried, and what would help.
fn refusal(name: &[u8], huge: Option<u64>) -> (String, Option<&'static str>) {
    let is_segment = name.starts_with(sysv_shm::NAME);
    let name = String::from_utf8_lossy(name);
    match (is_segment, huge) {
        (true, Some(_)) => (
            format!("System V shared memory segment {name} of huge pages is not supported"),
            None,
        ),
        (true, None) => (
            format!(
                "System V shared memory segment {name} is of another IPC namespace, or may not \
                 be looked at"
            ),
            Some("CAP_IPC_OWNER, or run icecore in that namespace"),
        ),
        (false, _) => (
            format!("shared memory object {name} of the kernel's is of unknown kind"),
            None,
        ),
    }
}

/// How the names of kernel objects without a path begin.
const INTERNAL_NAMES: [&[u8]; 4] = [b"/memfd:", b"/dev/zero", b"/anon_hugepage", sysv_shm::NAME];

fn internal_device(ctx: &mut DumpContext<'_>) -> std::io::Result<u64> {
    let known = &mut ctx.tables.shmem_refs.internal_device;
    match *known {
        Some(device) => Ok(device),
        None => Ok(*known.insert(shared_memory::internal_device()?)),
    }
}

fn kind(name: &[u8], meta: &Metadata, source: &File, huge: Option<u64>) -> Option<ShmemKind> {
    if let Some(name) = name.strip_prefix(b"/memfd:") {
        let seals = rustix::fs::fcntl_get_seals(source).ok()?;
        return Some(ShmemKind::MemFd {
            name: name.into(),
            seals: seals.bits(),
            huge_page_size: huge.unwrap_or(0),
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
        });
    }
    if name.starts_with(sysv_shm::NAME) {
        return sysv_shm::kind(name, meta, huge);
    }
    match (name, huge) {
        (b"/dev/zero", None) => Some(ShmemKind::Anonymous),
        (b"/anon_hugepage", Some(page_size)) => Some(ShmemKind::AnonymousHuge { page_size }),
        _ => None,
    }
}

fn remember(
    ctx: &mut DumpContext<'_>,
    key: (u64, u64, bool),
    meta: &Metadata,
    kind: ShmemKind,
    source: File,
) -> ShmemId {
    let id = ShmemId(ctx.tables.shmems.len() as u32);
    ctx.tables.shmems.push(ShmemState {
        id,
        inode: meta.ino(),
        size: meta.size(),
        kind,
        pages: Vec::new(),
    });
    ctx.tables.shmem_refs.seen.insert(key, id);
    ctx.tables.shmem_refs.sources.push(source);
    id
}
