//! inotify(7).
//!
//! The kernel keeps the inode of a watch, not its path; it tells a file handle
//! from which the path is found again where the file system supports that.
//! Where it does not (overlayfs), the paths that the task itself holds and
//! what lies in those directories are looked through.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use icecore_images::files::FileKind;
use icecore_images::inotify::{InotifyState, InotifyWatch};
use icecore_images::regular::FileRef;

use super::DumpContext;
use super::descriptor::Descriptor;
use super::descriptors::Collection;
use super::file_ref::{self, Link};
use crate::error::DumpError;
use crate::kernel::fdinfo::InotifyInfo;
use crate::kernel::{file_handle, proc_text};

/// The watches by path. Queued events cannot be queued again.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    all: &Collection,
    d: &Descriptor,
) -> Result<Option<FileKind>, DumpError> {
    let queued = rustix::io::ioctl_fionread(d.duplicate()?)
        .map_err(|e| d.error("queued events", e.into()))?;
    if queued != 0 {
        let problem = format!("inotify: {queued} bytes of events are queued, unread");
        d.refuse(
            ctx,
            problem,
            Some("let the program read them, then dump again"),
        );
    }
    let mut watches = Vec::new();
    for info in &d.info.inotify {
        match watched(ctx, all, d, info)? {
            Some(file) => watches.push(InotifyWatch {
                wd: info.wd,
                mask: info.mask,
                file,
            }),
            None => {
                let problem = format!(
                    "inotify: the path of watch {} (inode {} of device {:#x}) cannot be found",
                    info.wd, info.inode, info.device
                );
                d.refuse(
                    ctx,
                    problem,
                    Some("open the watched directory in the program as well"),
                );
            }
        }
    }
    watches.sort_by_key(|w| w.wd);
    Ok(Some(FileKind::Inotify(InotifyState { watches })))
}

fn watched(
    ctx: &mut DumpContext<'_>,
    all: &Collection,
    d: &Descriptor,
    info: &InotifyInfo,
) -> Result<Option<FileRef>, DumpError> {
    if let Some(fd) = by_handle(info) {
        use std::os::fd::AsRawFd;
        let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        // A file that is not in the directory cache has no path that could be
        // shown; the search below may still find it.
        if is_linked(&path) {
            return reference(ctx, d, &path);
        }
    }
    match search(all, d, info) {
        Some(path) => {
            let fd = rustix::fs::open(&path, O_PATH, rustix::fs::Mode::empty());
            let fd = fd.map_err(|e| d.error("a watched file", e.into()))?;
            use std::os::fd::AsRawFd;
            let link = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
            reference(ctx, d, &link)
        }
        None => Ok(None),
    }
}

const O_PATH: rustix::fs::OFlags = rustix::fs::OFlags::PATH
    .union(rustix::fs::OFlags::NOFOLLOW)
    .union(rustix::fs::OFlags::CLOEXEC);

fn reference(
    ctx: &mut DumpContext<'_>,
    d: &Descriptor,
    path: &Path,
) -> Result<Option<FileRef>, DumpError> {
    let link = Link {
        pid: d.pid,
        place: &d.place,
        path,
    };
    file_ref::describe(ctx, link)
}

fn is_linked(link: &Path) -> bool {
    let (Ok(shown), Ok(meta)) = (std::fs::read_link(link), std::fs::metadata(link)) else {
        return false;
    };
    file_ref::is_at(&shown, &meta) || shown.as_os_str().as_bytes().ends_with(b" (deleted)")
}

fn by_handle(info: &InotifyInfo) -> Option<std::os::fd::OwnedFd> {
    let (kind, bytes) = info.handle.as_ref()?;
    mounts_of(info.device)
        .into_iter()
        .filter_map(|mount| rustix::fs::open(mount, O_PATH_DIR, rustix::fs::Mode::empty()).ok())
        .find_map(|mount| file_handle::open(&mount, *kind, bytes).ok())
}

const O_PATH_DIR: rustix::fs::OFlags = rustix::fs::OFlags::RDONLY
    .union(rustix::fs::OFlags::DIRECTORY)
    .union(rustix::fs::OFlags::NONBLOCK)
    .union(rustix::fs::OFlags::CLOEXEC);

/// Mount points of a device, as the kernel counts it (20 bits minor). A mount
/// whose `st_dev` differs from its superblock's (btrfs) is found by its
/// superblock.
fn mounts_of(device: u64) -> Vec<PathBuf> {
    let wanted = format!("{}:{}", device >> 20, device & 0xf_ffff);
    let mountinfo = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    mountinfo
        .split(|&b| b == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|&b| b == b' ');
            (fields.nth(2)? == wanted.as_bytes()).then_some(())?;
            Some(path_of(&proc_text::unescape(fields.nth(1)?)))
        })
        .collect()
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(<std::ffi::OsStr as OsStrExt>::from_bytes(bytes))
}

/// Looks for the inode among what the task holds: those paths, the directories
/// above them, and what lies directly in each.
fn search(all: &Collection, d: &Descriptor, info: &InotifyInfo) -> Option<PathBuf> {
    let cwd = std::fs::read_link(d.table.proc().join("cwd")).ok();
    let held = all
        .of_table(d.table.id)
        .iter()
        .map(|d| d.shown.clone())
        .chain(cwd);
    let candidates: BTreeSet<PathBuf> = held
        .filter(|path| path.is_absolute())
        .flat_map(|path| path.ancestors().map(Path::to_owned).collect::<Vec<_>>())
        .collect();
    let is = |path: &Path| {
        std::fs::symlink_metadata(path)
            .is_ok_and(|m| m.ino() == info.inode && kernel_device(m.dev()) == info.device)
    };
    if let Some(path) = candidates.iter().find(|path| is(path)) {
        return Some(path.clone());
    }
    let inside = candidates
        .iter()
        .filter_map(|dir| std::fs::read_dir(dir).ok());
    inside
        .flat_map(|entries| entries.flatten().map(|e| e.path()))
        .find(|path| is(path))
}

/// `st_dev` as the kernel counts devices inside: 12 bits major, 20 minor.
fn kernel_device(dev: u64) -> u64 {
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    u64::from(major) << 20 | u64::from(minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_unescaped() {
        assert_eq!(
            path_of(&proc_text::unescape(br"/a\040b\134c")),
            Path::new(r"/a b\c")
        );
        assert_eq!(
            path_of(&proc_text::unescape(br"/end\04")),
            Path::new(r"/end\04")
        );
    }

    #[test]
    fn the_root_is_found_among_mounts() {
        let dev = std::fs::metadata("/proc").unwrap().dev();
        assert!(mounts_of(kernel_device(dev)).contains(&PathBuf::from("/proc")));
    }
}
