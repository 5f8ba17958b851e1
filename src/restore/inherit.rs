//! Descriptors of the caller's in place of descriptions of the image.

use std::io;
use std::os::fd::OwnedFd;

use icecore_images::connection::{ConnectionEnd, ConnectionPolicy, ConnectionState};
use icecore_images::files::{FileKind, OpenFile};
use icecore_images::{ByteString, Checkpoint};
use rustix::fs::OFlags;

use super::ghost::reopen;

/// Names by which a caller may mean a description; never empty.
pub(super) fn keys(image: &Checkpoint, at: usize) -> Vec<String> {
    let Some(file) = image.files.get(at) else {
        return vec![String::new()];
    };
    let socket = |inode: u64| vec![format!("socket:[{inode}]")];
    let path = |path: &ByteString| {
        let path = path.to_string();
        vec![path.trim_start_matches('/').to_owned(), path]
    };
    let pipe = |id: u32| {
        let pipe = image.pipes.get(id as usize);
        match pipe.map(|pipe| (&pipe.fifo, pipe.inode)) {
            Some((Some(fifo), _)) => path(&fifo.path),
            Some((None, inode)) => vec![format!("pipe:[{inode}]")],
            None => vec![String::new()],
        }
    };
    match &file.kind {
        FileKind::Regular(of) => path(&of.path),
        FileKind::Pipe(end) => pipe(end.pipe.0),
        FileKind::Unix(state) => socket(state.inode),
        FileKind::Inet(state) => socket(state.socket.inode),
        FileKind::Connection(state) => match &state.end {
            ConnectionEnd::Unix(end) => socket(end.inode),
            ConnectionEnd::Tcp(end) => socket(end.socket.inode),
            ConnectionEnd::Pipe(id) => pipe(id.0),
            ConnectionEnd::Tty(end) => vec![format!("tty[{:x}:{:x}]", end.rdev, end.dev)],
            ConnectionEnd::File(of) => path(of),
        },
        _ => vec![String::new()],
    }
}

/// What a description is that the caller gives.
pub(super) fn kind(file: &OpenFile) -> FileKind {
    let end = match &file.kind {
        FileKind::Connection(state) => return FileKind::Connection(state.clone()),
        FileKind::Pipe(end) => ConnectionEnd::Pipe(end.pipe),
        FileKind::Regular(of) => ConnectionEnd::File(of.path.clone()),
        _ => ConnectionEnd::File(ByteString::default()),
    };
    FileKind::Connection(ConnectionState {
        policy: ConnectionPolicy::Caller,
        kept: false,
        end,
    })
}

/// The description itself, or where it is not open for what the task does with
/// it, another one of the same file.
pub(super) fn open(given: &OwnedFd, flags: OFlags) -> io::Result<OwnedFd> {
    let is = rustix::fs::fcntl_getfl(given)? & OFlags::ACCMODE;
    match is == OFlags::RDWR || is == flags & OFlags::ACCMODE {
        true => given.try_clone(),
        false => Ok(reopen(given, flags | OFlags::NONBLOCK)?),
    }
}
