//! How a file that a task holds (open, mapped, as its program, as its working
//! directory) is described so that restore finds it again.
//!
//! The starting point is always one of the kernel's own links
//! (`/proc/PID/fd/N`, `map_files`, `exe`, `cwd`): it leads to the very file,
//! whatever has become of its name.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use icecore_images::ids::GhostId;
use icecore_images::regular::FileRef;

use super::DumpContext;
use super::ghost;
use crate::blocker::Place;
use crate::error::DumpError;
use crate::kernel::build_id;

/// What the kernel appends to the name of a file that was unlinked.
const DELETED: &[u8] = b" (deleted)";

/// A link of the kernel's to a file that a task holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link<'a> {
    /// The task.
    pub(crate) pid: u32,
    /// Where the file is held, for messages.
    pub(crate) place: &'a Place,
    /// The link, such as `/proc/PID/fd/N`.
    pub(crate) path: &'a Path,
}

/// What is known already, so that a file held many times is examined once.
#[derive(Debug, Default)]
pub(crate) struct FileRefs {
    /// By device, inode and what the link said.
    seen: HashMap<(u64, u64, PathBuf), Option<FileRef>>,
    /// Files without a name, by device and inode.
    pub(super) ghosts: HashMap<(u64, u64), GhostId>,
    /// The contents of each ghost that has any, at its id's index.
    pub(crate) ghost_sources: Vec<Option<File>>,
}

/// How a file was found.
enum Found {
    /// Under this name.
    Named(PathBuf),
    /// It has no name any more; this was its last one.
    Nameless(PathBuf),
    /// It has names, but none that could be found.
    Lost(String, Option<String>),
}

/// Describes the file behind `link`; `None` if it cannot be carried, which has
/// then been noted as a blocker.
pub(crate) fn describe(
    ctx: &mut DumpContext<'_>,
    link: Link<'_>,
) -> Result<Option<FileRef>, DumpError> {
    let read = |source| DumpError::Read {
        pid: link.pid,
        what: link.path.display().to_string(),
        source,
    };
    let shown = std::fs::read_link(link.path).map_err(read)?;
    let meta = std::fs::metadata(link.path).map_err(read)?;
    let key = (meta.dev(), meta.ino(), shown);
    if let Some(known) = ctx.tables.file_refs.seen.get(&key) {
        return Ok(known.clone());
    }
    let file = match find(link.pid, &key.2, &meta) {
        Found::Named(path) => Some(reference(&path, &meta, link.path)),
        Found::Nameless(path) => ghost::describe(ctx, link, &path, &meta)?.map(|id| FileRef {
            ghost: Some(id),
            ..reference(&path, &meta, link.path)
        }),
        Found::Lost(problem, help) => {
            ctx.block(link.place.clone(), problem, help.as_deref());
            None
        }
    };
    ctx.tables.file_refs.seen.insert(key, file.clone());
    Ok(file)
}

fn reference(path: &Path, meta: &Metadata, link: &Path) -> FileRef {
    FileRef {
        path: path.as_os_str().as_bytes().into(),
        mode: meta.mode(),
        size: meta.size(),
        mtime_ns: mtime_ns(meta),
        device: meta.dev(),
        inode: meta.ino(),
        build_id: build_id_of(path, meta, link).map(Into::into),
        ghost: None,
    }
}

/// Modification time, nanoseconds since the epoch.
pub(super) fn mtime_ns(meta: &Metadata) -> i64 {
    meta.mtime().saturating_mul(1_000_000_000) + meta.mtime_nsec()
}

/// Only files that look like programs or libraries are opened for it: opening
/// is seen by whoever watches the file.
fn build_id_of(path: &Path, meta: &Metadata, link: &Path) -> Option<Vec<u8>> {
    let name = path.file_name()?.as_bytes();
    let looks_like_code =
        meta.mode() & 0o111 != 0 || name.windows(3).any(|window| window == b".so");
    if !meta.is_file() || !looks_like_code {
        return None;
    }
    build_id::read(&open_unnoticed(link).ok()?)
}

/// Opens for reading without leaving an access time where that is allowed.
pub(super) fn open_unnoticed(link: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true);
    options
        .clone()
        .custom_flags(libc::O_NOATIME)
        .open(link)
        .or_else(|_| options.open(link))
}

/// Finds a name that leads to the file: the one shown, or another in the same
/// directory or among the task's other descriptors.
fn find(pid: u32, shown: &Path, meta: &Metadata) -> Found {
    let bytes = shown.as_os_str().as_bytes();
    if is_at(shown, meta) {
        return Found::Named(shown.to_owned());
    }
    if bytes.starts_with(b"(unreachable)") {
        return Found::Lost(
            format!(
                "{} lies in a file system that is not mounted any more",
                shown.display()
            ),
            None,
        );
    }
    let Some(name) = bytes.strip_suffix(DELETED) else {
        return Found::Lost(
            format!(
                "{} is hidden by another file or mount of that name",
                shown.display()
            ),
            Some("unmount what lies above it".to_owned()),
        );
    };
    let name = PathBuf::from(std::ffi::OsString::from_vec(name.to_vec()));
    if meta.nlink() == 0 || meta.is_dir() {
        return Found::Nameless(name);
    }
    if let Some(other) = sibling(&name, meta).or_else(|| other_descriptor(pid, meta)) {
        return Found::Named(other);
    }
    Found::Lost(
        format!(
            "{} was deleted but has {} other name{} that icecore cannot find: a copy of it \
             would no longer be the same file",
            name.display(),
            meta.nlink(),
            if meta.nlink() == 1 { "" } else { "s" },
        ),
        Some(format!(
            "give it its name back: ln -L /proc/{pid}/fd/N {}",
            name.display()
        )),
    )
}

/// Whether `path` names the file that `meta` is of.
pub(super) fn is_at(path: &Path, meta: &Metadata) -> bool {
    path.is_absolute()
        && std::fs::symlink_metadata(path)
            .is_ok_and(|at| (at.dev(), at.ino()) == (meta.dev(), meta.ino()))
}

/// Another name in the directory the file had its old name in.
fn sibling(name: &Path, meta: &Metadata) -> Option<PathBuf> {
    use std::os::unix::fs::DirEntryExt;
    std::fs::read_dir(name.parent()?)
        .ok()?
        .flatten()
        .filter(|entry| entry.ino() == meta.ino())
        .map(|entry| entry.path())
        .find(|path| is_at(path, meta))
}

/// The name by which the task holds the file in another descriptor.
fn other_descriptor(pid: u32, meta: &Metadata) -> Option<PathBuf> {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .ok()?
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .find(|path| is_at(path, meta))
}
