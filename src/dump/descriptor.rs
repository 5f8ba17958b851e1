//! A descriptor of a task as it is seen from outside: through `/proc`, and
//! through a duplicate of ours (pidfd_getfd), which touches nothing.

use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use icecore_images::files::FileOwner;
use icecore_images::ids::FdTableId;
use rustix::process::{ForeignRawFd, PidfdGetfdFlags, pidfd_getfd};

use super::DumpContext;
use super::file_ref::Link;
use crate::blocker::Place;
use crate::error::DumpError;
use crate::kernel::fcntl;
use crate::kernel::fdinfo::{self, FdInfo};

/// A descriptor table, read through a task that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    /// Its name in the image.
    pub(super) id: FdTableId,
    /// The task.
    pub(super) pid: u32,
    /// One of its live threads (the leader may be a zombie).
    pub(super) tid: u32,
}

/// A descriptor.
#[derive(Debug)]
pub(super) struct Descriptor {
    /// The table it is in.
    pub(super) table: Table,
    /// The task that is looked at.
    pub(super) pid: u32,
    /// Its number.
    pub(super) fd: u32,
    /// `/proc/PID/fdinfo/FD`.
    pub(super) info: FdInfo,
    /// fstat.
    pub(super) meta: Metadata,
    /// What the link in `/proc/PID/fd` says.
    pub(super) shown: PathBuf,
    /// The link in `/proc/PID/fd`.
    pub(super) link: PathBuf,
    /// `pid … fd …`, for messages.
    pub(super) place: Place,
}

impl Table {
    fn pidfd(&self) -> Result<OwnedFd, DumpError> {
        // A leader that has ended has no descriptors any more; one of its
        // threads has, and can be opened since 6.9 (PIDFD_THREAD).
        const PIDFD_THREAD: u32 = libc::O_EXCL as u32;
        let flags = if self.tid == self.pid {
            0
        } else {
            PIDFD_THREAD
        };
        let number = rustix::process::Pid::from_raw(self.tid as i32);
        number
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|n| {
                let flags = rustix::process::PidfdFlags::from_bits_retain(flags);
                rustix::process::pidfd_open(n, flags)
            })
            .map_err(|e| read_error(self.pid, "a pidfd of it", e.into()))
    }

    /// `/proc/PID/task/TID`.
    pub(super) fn proc(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/task/{}", self.pid, self.tid))
    }

    /// All descriptors, by number.
    pub(super) fn descriptors(&self) -> Result<Vec<Descriptor>, DumpError> {
        let dir = self.proc().join("fd");
        let error = |e| read_error(self.pid, "/proc/PID/fd", e);
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            numbers.extend(name.to_str().and_then(|n| n.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        numbers.into_iter().map(|fd| self.descriptor(fd)).collect()
    }

    /// One of them.
    pub(super) fn descriptor(&self, fd: u32) -> Result<Descriptor, DumpError> {
        let error = |e| read_error(self.pid, &format!("descriptor {fd}"), e);
        let link = self.proc().join(format!("fd/{fd}"));
        let info = self.proc().join(format!("fdinfo/{fd}"));
        Ok(Descriptor {
            table: *self,
            pid: self.pid,
            fd,
            info: fdinfo::read(&info).map_err(error)?,
            meta: std::fs::metadata(&link).map_err(error)?,
            shown: std::fs::read_link(&link).map_err(error)?,
            link,
            place: Place::Fd { pid: self.pid, fd },
        })
    }
}

impl Descriptor {
    /// A descriptor of ours for the same open file description.
    pub(super) fn duplicate(&self) -> Result<OwnedFd, DumpError> {
        let number = self.fd as ForeignRawFd;
        let error = |e: rustix::io::Errno| {
            read_error(self.pid, &format!("descriptor {}", self.fd), e.into())
        };
        pidfd_getfd(self.table.pidfd()?, number, PidfdGetfdFlags::empty()).map_err(error)
    }

    /// `/proc/PID/task/TID/fdinfo/FD`.
    pub(super) fn info_path(&self) -> PathBuf {
        self.table.proc().join(format!("fdinfo/{}", self.fd))
    }

    /// Device and inode.
    pub(super) fn key(&self) -> (u64, u64) {
        (self.meta.dev(), self.meta.ino())
    }

    /// What kcmp(2) knows it by.
    pub(super) fn place_of_file(&self) -> (u32, u32) {
        (self.table.tid, self.fd)
    }

    /// S_IFMT bits of its mode; 0 for anonymous inodes.
    pub(super) fn format(&self) -> u32 {
        self.meta.mode() & libc::S_IFMT
    }

    /// The O_* flags of the description.
    pub(super) fn flags(&self) -> u32 {
        self.info.flags & !(libc::O_CLOEXEC as u32)
    }

    pub(super) fn cloexec(&self) -> bool {
        self.info.flags & libc::O_CLOEXEC as u32 != 0
    }

    pub(super) fn is_path_only(&self) -> bool {
        self.info.flags & libc::O_PATH as u32 != 0
    }

    pub(super) fn reads(&self) -> bool {
        self.info.flags & libc::O_ACCMODE as u32 != libc::O_WRONLY as u32
    }

    pub(super) fn writes(&self) -> bool {
        self.info.flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32
    }

    pub(super) fn shown_bytes(&self) -> &[u8] {
        self.shown.as_os_str().as_bytes()
    }

    /// For [`super::file_ref::describe`].
    pub(super) fn link(&self) -> Link<'_> {
        Link {
            pid: self.pid,
            place: &self.place,
            path: &self.link,
        }
    }

    /// Notes that this descriptor cannot be carried over.
    pub(super) fn refuse(&self, ctx: &mut DumpContext<'_>, problem: String, help: Option<&str>) {
        ctx.block(self.place.clone(), problem, help);
    }

    /// F_SETOWN and F_SETSIG.
    pub(super) fn owner(&self, duplicate: impl AsFd) -> Result<Option<FileOwner>, DumpError> {
        let what = || -> io::Result<_> {
            let (kind, id) = fcntl::owner(&duplicate)?;
            let signal = fcntl::signal(&duplicate)?;
            let uids = fcntl::owner_uids(&duplicate)?;
            Ok((id != 0 || signal != 0).then_some(FileOwner {
                kind,
                id,
                signal,
                uids,
            }))
        };
        what().map_err(|e| read_error(self.pid, &format!("owner of descriptor {}", self.fd), e))
    }

    /// An error reading something of this descriptor.
    pub(super) fn error(&self, what: &str, source: io::Error) -> DumpError {
        read_error(
            self.pid,
            &format!("{what} of descriptor {}", self.fd),
            source,
        )
    }
}

/// A path as it is shown to people.
pub(super) fn shown(path: &Path) -> String {
    icecore_images::ByteString::from(path.as_os_str().as_bytes()).to_string()
}

pub(super) fn read_error(pid: u32, what: &str, source: io::Error) -> DumpError {
    DumpError::Read {
        pid,
        what: what.to_owned(),
        source,
    }
}
