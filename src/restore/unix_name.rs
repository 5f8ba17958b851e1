//! Giving AF_UNIX sockets their names back.
//!
//! A path is bound exactly as it was: from the directory, and under the root,
//! in which it led to the file. What has no file any more is bound in a file
//! system of its own, which is attached nowhere and goes with its last user.
//! Both happen on a thread of their own, as directories belong to a thread.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use icecore_images::ByteString;
use icecore_images::unix::{UnixFile, UnixName, UnixSocketKind};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::thread::CapabilitySet;

use super::RestoreContext;
use super::unix::socket;
use crate::blocker::Place;
use crate::kernel::{unix_diag, unix_message};

/// Files that were made; removed again unless they are kept.
#[derive(Debug, Default)]
pub(super) struct Made(Vec<PathBuf>);

impl Made {
    /// They are there to stay.
    pub(super) fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether a name is a path.
pub(super) fn is_path(name: &[u8]) -> bool {
    name.first().is_some_and(|&b| b != 0)
}

/// Notes what keeps a socket from being bound here.
pub(super) fn plan(ctx: &mut RestoreContext<'_>, name: &UnixName, kind: UnixSocketKind) {
    let Some(file) = &name.file else {
        return plan_without_file(ctx, name, kind);
    };
    let path = Path::new(OsStr::from_bytes(&file.path.0));
    let place = Place::Path {
        path: file.path.to_string(),
    };
    let dir = path.parent().unwrap_or(path);
    if let Err(e) = rustix::fs::access(dir, rustix::fs::Access::WRITE_OK) {
        let problem = format!("the socket cannot be made in {}: {e}", dir.display());
        return ctx.obstacle(place, problem, Some("make the directory, writable"));
    }
    let Ok(there) = std::fs::symlink_metadata(path) else {
        return;
    };
    let problem = match unix_diag::is_bound(there.dev(), there.ino()) {
        _ if !there.file_type().is_socket() => "is no socket any more",
        Ok(true) => "another socket is bound there",
        _ => return,
    };
    ctx.obstacle(place, problem.to_owned(), Some("move it away"));
}

fn plan_without_file(ctx: &mut RestoreContext<'_>, name: &UnixName, kind: UnixSocketKind) {
    if is_path(&name.name.0) {
        if !ctx.has_capability(CapabilitySet::SYS_ADMIN) {
            let problem = format!("CAP_SYS_ADMIN is missing: socket {} needs it", name.name);
            ctx.obstacle(Place::Machine, problem, Some("run as root"));
        }
        return;
    }
    let tried = socket(kind).and_then(|socket| unix_message::bind(socket, &name.name.0));
    if let Err(e) = tried {
        let shown = ByteString::from(&name.name.0[1..]);
        let problem = format!("socket @{shown} cannot be bound: {e}");
        let help = "end the program that has this abstract name";
        ctx.obstacle(Place::Machine, problem, Some(help));
    }
}

/// Binds a socket to its name.
pub(super) fn bind(socket: &OwnedFd, name: &UnixName, made: &mut Made) -> io::Result<()> {
    match &name.file {
        Some(file) => bind_file(socket, &name.name, file, made),
        None => in_scratch(&name.name.0, || unix_message::bind(socket, &name.name.0)),
    }
}

fn bind_file(
    socket: &OwnedFd,
    name: &ByteString,
    file: &UnixFile,
    made: &mut Made,
) -> io::Result<()> {
    let path = Path::new(OsStr::from_bytes(&file.path.0));
    // What a socket leaves behind when it is closed.
    if std::fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let base = file.base(name).ok_or(io::ErrorKind::InvalidInput)?;
    match base.root.is_empty() && base.cwd.is_empty() && name.0.first() == Some(&b'/') {
        true => unix_message::bind(socket, &name.0)?,
        false => elsewhere(|| {
            if !base.root.is_empty() {
                rustix::process::chroot(OsStr::from_bytes(base.root))?;
            }
            rustix::process::chdir(OsStr::from_bytes(&[base.cwd, b"/"].concat()))?;
            unix_message::bind(socket, &name.0)
        })?,
    }
    made.0.push(path.to_owned());
    std::os::unix::fs::lchown(path, Some(file.uid), Some(file.gid))?;
    let mode = std::fs::Permissions::from_mode(file.mode & 0o7777);
    std::fs::set_permissions(path, mode)
}

/// Runs `work` where `name`, if it is a path, can be bound and connected to
/// without touching any file: in a file system that holds nothing. Whatever is
/// bound there has no file afterwards.
pub(super) fn in_scratch<T: Send>(
    name: &[u8],
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    if !is_path(name) {
        return work();
    }
    elsewhere(|| {
        // Stand-ins of other users connect here, too.
        rustix::process::umask(rustix::fs::Mode::empty());
        let root = empty_file_system()?;
        rustix::process::fchdir(&root)?;
        rustix::process::chroot(".")?;
        let path = Path::new(OsStr::from_bytes(name));
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir)?;
        }
        let done = work()?;
        let _ = std::fs::remove_file(path);
        Ok(done)
    })
}

fn empty_file_system() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(fsmount(context.as_fd(), flags, MountAttrFlags::empty())?)
}

/// Runs `work` on a thread with directories of its own.
fn elsewhere<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
            work()
        });
        match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// An address by which a bound socket is reached whatever became of its file,
/// and what keeps it valid.
pub(super) fn reach(socket: &OwnedFd) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let name = unix_message::name(socket)?.ok_or(io::ErrorKind::NotConnected)?;
    if !is_path(&name) {
        return Ok((name, None));
    }
    let file = unix_message::file(socket)?;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok((link.into_bytes(), Some(file)))
}
