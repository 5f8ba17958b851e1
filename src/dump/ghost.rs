//! Files without a name: their metadata, and their contents to be copied.

use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use icecore_images::ByteString;
use icecore_images::ids::GhostId;
use icecore_images::regular::GhostFile;

use super::DumpContext;
use super::file_ref::{self, Link};
use crate::error::DumpError;
use crate::kernel::xattr;

/// Notes the nameless file behind `link`, whose last name was `path`; `None`
/// if it cannot be carried (noted as a blocker). Its contents are copied
/// later, from [`super::file_ref::FileRefs::ghost_sources`].
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    link: Link<'_>,
    path: &Path,
    meta: &Metadata,
) -> Result<Option<GhostId>, DumpError> {
    let key = (meta.dev(), meta.ino());
    if let Some(&id) = ctx.tables.file_refs.ghosts.get(&key) {
        return Ok(Some(id));
    }
    if let Some((problem, help)) = refusal(path, meta, ctx.options.ghost_limit) {
        ctx.block(link.place.clone(), problem, help.as_deref());
        return Ok(None);
    }
    let read = |source| DumpError::Read {
        pid: link.pid,
        what: link.path.display().to_string(),
        source,
    };
    let source = match meta.is_file() {
        true => Some(file_ref::open_unnoticed(link.path).map_err(read)?),
        false => None,
    };
    let id = GhostId(ctx.tables.ghosts.len() as u32);
    let xattrs = xattr::all(link.path).map_err(read)?;
    ctx.tables.ghosts.push(ghost(id, path, meta, xattrs));
    ctx.tables.file_refs.ghosts.insert(key, id);
    ctx.tables.file_refs.ghost_sources.push(source);
    Ok(Some(id))
}

fn ghost(id: GhostId, path: &Path, meta: &Metadata, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> GhostFile {
    let nanos = |s: i64, ns: i64| s.saturating_mul(1_000_000_000).saturating_add(ns);
    GhostFile {
        id,
        path: path.as_os_str().as_bytes().into(),
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        size: if meta.is_file() { meta.size() } else { 0 },
        atime_ns: nanos(meta.atime(), meta.atime_nsec()),
        mtime_ns: nanos(meta.mtime(), meta.mtime_nsec()),
        xattrs: xattrs
            .into_iter()
            .map(|(name, value)| (ByteString(name), ByteString(value)))
            .collect(),
        pages: Vec::new(),
    }
}

/// Why a nameless file is not carried, and what would help.
fn refusal(path: &Path, meta: &Metadata, limit: u64) -> Option<(String, Option<String>)> {
    if !meta.is_file() && !meta.is_dir() {
        let kind = icecore_images::files::kind_of_mode(meta.mode());
        return Some((format!("{kind} {} was deleted", path.display()), None));
    }
    let stored = meta.blocks().saturating_mul(512).min(meta.size());
    (meta.is_file() && stored > limit).then(|| {
        let help = format!("--ghost-limit {stored}");
        let problem = format!(
            "deleted file {} holds {stored} bytes, more than the limit of {limit}",
            path.display()
        );
        (problem, Some(help))
    })
}
