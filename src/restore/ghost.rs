//! Files without a name, made again from the image.
//!
//! A nameless file is made nameless (O_TMPFILE) in the directory it once had
//! its name in: no name appears even for a moment, nothing is left if icecore
//! dies, and the directory's times stay. What differs is the name
//! `/proc/PID/fd` shows (`#INODE (deleted)`): not worth a file that others may
//! come across. Only an unlinked directory, and a file system without O_TMPFILE,
//! need a name for an instant; the directory gets the one it had.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use icecore_images::PageReader;
use icecore_images::ids::GhostId;
use icecore_images::pages::{PAGE_SIZE, PageSource};
use icecore_images::regular::GhostFile;
use rustix::fs::{CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::RestoreContext;
use super::momentary::Momentary;
use crate::blocker::Place;
use crate::error::RestoreError;
use crate::kernel::xattr;

/// The ghosts of a restore, open for reading.
#[derive(Debug, Default)]
pub(crate) struct Ghosts {
    fds: Vec<OwnedFd>,
}

impl Ghosts {
    /// A new open file description of ghost `id`.
    pub(crate) fn reopen(&self, id: GhostId, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let ghost = self.fds.get(id.0 as usize).ok_or(Errno::NOENT)?;
        reopen(ghost, flags)
    }
}

/// A new open file description of what `fd` refers to, through the kernel's
/// link to it.
pub(crate) fn reopen(fd: impl AsFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    // The link itself is a symbolic link to be followed.
    let flags = flags & !OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, link, flags, Mode::empty())
}

/// Notes ghosts that could not be made here.
pub(crate) fn plan(ctx: &mut RestoreContext<'_>) {
    for ghost in &ctx.image.ghosts {
        let Some(dir) = home(ghost) else {
            let place = Place::Path {
                path: ghost.path.to_string(),
            };
            let problem = "deleted file without a directory to live in".to_owned();
            ctx.obstacle(place, problem, None);
            continue;
        };
        if let Err(e) = rustix::fs::access(&dir, rustix::fs::Access::WRITE_OK) {
            let place = Place::Path {
                path: dir.display().to_string(),
            };
            let problem = format!("deleted file {} cannot be made again here: {e}", ghost.path);
            ctx.obstacle(place, problem, Some("make the directory writable"));
        }
    }
}

/// Makes all ghosts and fills them.
pub(crate) fn create_all(
    ctx: &RestoreContext<'_>,
    pages: &PageReader,
) -> Result<Ghosts, RestoreError> {
    let mut fds = Vec::new();
    let mut momentary = Momentary::default();
    for ghost in &ctx.image.ghosts {
        let fd = create(ghost, pages, &mut momentary);
        fds.push(fd.map_err(|source| RestoreError::Rebuild {
            what: format!("deleted file {}", ghost.path),
            source,
        })?);
    }
    Ok(Ghosts { fds })
}

fn create(
    ghost: &GhostFile,
    pages: &PageReader,
    momentary: &mut Momentary,
) -> std::io::Result<OwnedFd> {
    let dir = home(ghost).ok_or(Errno::NOENT)?;
    if ghost.mode & libc::S_IFMT == libc::S_IFDIR {
        let fd = unlinked_directory(&dir, ghost, momentary)?;
        dress(&fd, ghost)?;
        return Ok(fd);
    }
    let file = File::from(unlinked_file(&dir, momentary)?);
    fill(&file, ghost, pages)?;
    dress(&file, ghost)?;
    // Nobody may hold it open for writing where it is a program.
    Ok(reopen(&file, OFlags::RDONLY | OFlags::NOATIME)
        .or_else(|_| reopen(&file, OFlags::RDONLY))?)
}

fn path_of(ghost: &GhostFile) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(&ghost.path.0))
}

/// The directory the ghost had its name in, or the nearest above that exists.
fn home(ghost: &GhostFile) -> Option<PathBuf> {
    let mut above = path_of(ghost)
        .ancestors()
        .skip(1)
        .filter(|dir| dir.is_absolute());
    above.find(|dir| dir.is_dir()).map(Path::to_owned)
}

fn unlinked_file(dir: &Path, momentary: &mut Momentary) -> std::io::Result<OwnedFd> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, dir, flags, mode) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
        done => return Ok(done?),
    }
    momentary.file(&own_name(dir), |name| {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, name, flags, mode)
    })
}

/// A directory that shows the name it once had, if nobody has that now.
fn unlinked_directory(
    dir: &Path,
    ghost: &GhostFile,
    momentary: &mut Momentary,
) -> std::io::Result<OwnedFd> {
    let make = |name: &Path| {
        rustix::fs::mkdir(name, Mode::RWXU)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, name, flags, Mode::empty())
    };
    let once = path_of(ghost);
    let free = || rustix::fs::lstat(once).err() == Some(Errno::NOENT);
    if once.parent() == Some(dir) && free() {
        match momentary.directory(once, make) {
            // Somebody was faster.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            done => return done,
        }
    }
    momentary.directory(&own_name(dir), make)
}

/// A name in `dir` that nobody else would use.
fn own_name(dir: &Path) -> PathBuf {
    dir.join(format!(".icecore-{}", std::process::id()))
}

fn fill(file: &File, ghost: &GhostFile, pages: &PageReader) -> std::io::Result<()> {
    rustix::fs::ftruncate(file, ghost.size)?;
    let mut buffer = vec![0; BUFFER];
    for extent in &ghost.pages {
        let PageSource::File { file: from, offset } = extent.source else {
            continue;
        };
        // What reaches beyond the size is the padding of the last page.
        let end = (extent
            .start
            .saturating_add(extent.count.saturating_mul(PAGE_SIZE)))
        .min(ghost.size);
        let mut at = extent.start;
        while at < end {
            let part = &mut buffer[..(end - at).min(BUFFER as u64) as usize];
            pages
                .read_at(from, offset.saturating_add(at - extent.start), part)
                .map_err(std::io::Error::other)?;
            file.write_all_at(part, at)?;
            at += part.len() as u64;
        }
    }
    Ok(())
}

const BUFFER: usize = 1 << 20;

/// Owner, attributes, mode and times, in the order in which the kernel lets
/// them stand: chown clears the set-user-id bit, everything changes times.
fn dress(fd: impl AsFd, ghost: &GhostFile) -> std::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(ghost.uid), Gid::from_raw(ghost.gid));
    rustix::fs::fchown(&fd, Some(uid), Some(gid))?;
    for (name, value) in &ghost.xattrs {
        xattr::set(&fd, &name.0, &value.0)?;
    }
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(ghost.mode & 0o7777))?;
    let times = Timestamps {
        last_access: timespec(ghost.atime_ns),
        last_modification: timespec(ghost.mtime_ns),
    };
    Ok(rustix::fs::futimens(&fd, &times)?)
}

fn timespec(ns: i64) -> Timespec {
    Timespec {
        tv_sec: ns.div_euclid(1_000_000_000),
        tv_nsec: ns.rem_euclid(1_000_000_000),
    }
}
