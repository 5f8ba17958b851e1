//! Open file descriptions and the tables that refer to them.

use serde::{Deserialize, Serialize};

use crate::connection::ConnectionState;
use crate::device::DeviceState;
use crate::epoll::EpollState;
use crate::eventfd::EventFdState;
use crate::ids::{DescriptionId, FdTableId, FsId, ShmemId};
use crate::inet::InetSocketState;
use crate::inotify::InotifyState;
use crate::lock::FileLock;
use crate::pidfd::PidFdState;
use crate::pipe::PipeEnd;
use crate::proc_file::ProcFileState;
use crate::regular::FileRef;
use crate::signalfd::SignalFdState;
use crate::timerfd::TimerFdState;
use crate::unix::UnixSocketState;

/// An open file description: what dup'ed and inherited descriptors share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFile {
    /// Its name in this image.
    pub id: DescriptionId,
    /// O_* flags as `/proc/PID/fdinfo` shows them, without O_CLOEXEC.
    pub flags: u32,
    /// File offset.
    pub position: u64,
    /// F_SETOWN and F_SETSIG.
    pub owner: Option<FileOwner>,
    /// Locks taken through it, in the order in which fdinfo shows them.
    pub locks: Vec<FileLock>,
    /// What it is.
    pub kind: FileKind,
}

/// F_GETOWN_EX and F_GETSIG.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOwner {
    /// F_OWNER_TID (0), F_OWNER_PID (1), F_OWNER_PGRP (2).
    pub kind: u32,
    /// Its id; 0: none (only the signal is set).
    pub id: i32,
    /// Signal; 0: SIGIO.
    pub signal: u32,
    /// F_GETOWNER_UIDS: real and effective uid.
    pub uids: (u32, u32),
}

/// What an open file description is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    Regular(FileRef),
    /// A directory.
    Directory(FileRef),
    /// A symbolic link, socket or device opened with O_PATH.
    PathOnly(FileRef),
    /// A character device that carries no state.
    Device(DeviceState),
    /// A file of `/proc` or `/sys` of the task itself.
    Proc(ProcFileState),
    /// One end (or both) of a pipe or FIFO.
    Pipe(PipeEnd),
    /// eventfd(2).
    EventFd(EventFdState),
    /// epoll(7).
    Epoll(EpollState),
    /// timerfd_create(2).
    TimerFd(TimerFdState),
    /// signalfd(2).
    SignalFd(SignalFdState),
    /// inotify(7).
    Inotify(InotifyState),
    /// memfd_create(2).
    MemFd(ShmemId),
    /// pidfd_open(2) of a task in the dump.
    PidFd(PidFdState),
    /// An AF_UNIX socket without a name.
    Unix(UnixSocketState),
    /// A connection whose other end lies outside the dump.
    Connection(ConnectionState),
    /// A socket of AF_INET or AF_INET6.
    Inet(InetSocketState),
}

/// A descriptor table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdTable {
    /// Its name in this image.
    pub id: FdTableId,
    /// Entries by descriptor number.
    pub entries: Vec<FdEntry>,
}

/// A descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdEntry {
    /// Its number.
    pub fd: u32,
    /// FD_CLOEXEC.
    pub cloexec: bool,
    /// The description it refers to.
    pub description: DescriptionId,
}

/// An fs struct.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsState {
    /// Its name in this image.
    pub id: FsId,
    /// Working directory.
    pub cwd: FileRef,
    /// Root directory.
    pub root: FileRef,
    /// umask.
    pub umask: u32,
}

/// Kind of a file system object a [`FileRef`] may name, for messages.
pub fn kind_of_mode(mode: u32) -> &'static str {
    match mode & 0o170_000 {
        0o100_000 => "regular file",
        0o040_000 => "directory",
        0o020_000 => "character device",
        0o060_000 => "block device",
        0o010_000 => "FIFO",
        0o120_000 => "symbolic link",
        0o140_000 => "socket",
        _ => "file of unknown kind",
    }
}
