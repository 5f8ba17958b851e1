//! Pipes and FIFOs.

use serde::{Deserialize, Serialize};

use crate::bytes::ByteString;
use crate::ids::PipeId;
use crate::regular::FileRef;

/// The buffer behind the ends of a pipe or FIFO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipeState {
    /// Its name in this image.
    pub id: PipeId,
    /// Inode number at the dump, as `pipe:[N]` shows it.
    pub inode: u64,
    /// The FIFO's file, for a pipe with a name.
    pub fifo: Option<FileRef>,
    /// F_GETPIPE_SZ, bytes.
    pub capacity: u32,
    /// Queued data, in order.
    pub queue: Vec<PipeChunk>,
    /// FIFO or pipe owner as fstat shows it.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
}

/// A piece of a pipe's queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipeChunk {
    /// The data.
    pub bytes: ByteString,
    /// A packet (written with O_DIRECT): a read ends with it and drops what
    /// of it does not fit.
    pub packet: bool,
}

/// An end of a pipe; the access mode in the description's flags says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipeEnd {
    /// The pipe.
    pub pipe: PipeId,
}
