//! What can go wrong, per operation.

use std::path::PathBuf;

use icecore_images::{ReadError, WriteError};

use crate::blocker::{Blocker, Obstacle};
use crate::tracer::freeze::InjectError;

/// A dump failed; the target goes on as if nothing had happened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// There is no such task.
    #[error("dump pid {pid}: no such process")]
    NoSuchTask {
        /// The pid asked for.
        pid: u32,
    },
    /// Things that cannot be carried over; all of them.
    #[error("dump pid {pid}: {} cannot be carried over", count(.blockers.len()))]
    Blocked {
        /// The root task.
        pid: u32,
        /// What stands in the way.
        blockers: Vec<Blocker>,
    },
    /// Code could not be run inside the target.
    #[error("dump pid {pid}: run the parasite")]
    Inject {
        /// The task.
        pid: u32,
        /// Why.
        #[source]
        source: InjectError,
    },
    /// Something about the target could not be read.
    #[error("dump pid {pid}: read {what}")]
    Read {
        /// The task.
        pid: u32,
        /// What was read.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The contents of an object of the target's could not be read.
    #[error("dump: read {what}")]
    Content {
        /// What was read.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The image would not leave enough room for everyone else.
    #[error(
        "dump: {} has no room for the image: {needed} bytes needed, {available} available",
        .dir.display()
    )]
    Space {
        /// Directory of the image.
        dir: PathBuf,
        /// Bytes, a margin included.
        needed: u64,
        /// Bytes that may be used.
        available: u64,
    },
    /// It was told to stop.
    #[error("dump: cancelled")]
    Cancelled,
    /// A file could not be written.
    #[error("dump: write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The image could not be written.
    #[error(transparent)]
    Image(#[from] WriteError),
}

/// A restore failed; nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Obstacles found by the plan; all of them.
    #[error("restore: {} in the way", count(.obstacles.len()))]
    Obstacles {
        /// What stands in the way.
        obstacles: Vec<Obstacle>,
    },
    /// The image could not be read, or is none.
    #[error(transparent)]
    Image(#[from] ReadError),
    /// Something of the task could not be made again.
    #[error("restore: rebuild {what}")]
    Rebuild {
        /// What was being made.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

fn count(n: usize) -> String {
    match n {
        1 => "one thing".to_owned(),
        n => format!("{n} things"),
    }
}
