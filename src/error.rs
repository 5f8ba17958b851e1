//! What can go wrong, per operation.

use std::io;
use std::path::PathBuf;

use icecore_images::{ReadError, WriteError};
use rustix::io::Errno;

use crate::blocker::{Blocker, Obstacle};
use crate::keeper::KeeperError;
use crate::observer::Stage;
use crate::tracer::ScriptError;
use crate::tracer::freeze::{FreezeError, InjectError};
use crate::tracer::ptrace::TraceError;
use crate::tracer::remote::RemoteError;

/// A dump failed; the target goes on as if nothing had happened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// A task was born while the tree was thought to stand still.
    #[error("dump: pid {child} appeared below pid {parent} while the tree was being dumped")]
    Newcomer {
        /// Its pid.
        child: u32,
        /// Its parent's.
        parent: u32,
    },
    /// There is no such task.
    #[error("dump pid {pid}: no such process")]
    NoSuchTask {
        /// The pid asked for.
        pid: u32,
    },
    /// The task could not be frozen.
    #[error("dump pid {pid}: freeze it")]
    Freeze {
        /// The task.
        pid: u32,
        /// Why.
        #[source]
        source: FreezeError,
    },
    /// The image is complete, but the task could not be let go (or ended) as
    /// asked for.
    #[error("dump pid {pid}: let it go")]
    Release {
        /// The task.
        pid: u32,
        /// Why.
        #[source]
        source: TraceError,
    },
    /// The cgroup that stands still, or is to bring the target to a standstill,
    /// cannot be used for it.
    #[error("dump: cgroup {}: {what}", .dir.display())]
    Freezer {
        /// Its directory.
        dir: PathBuf,
        /// What cannot be done.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no thread to trace from.
    #[error("dump: start a thread")]
    Thread {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no guardian to clean up after a killed dump.
    #[error("dump: start a guardian process")]
    Guardian {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is nobody to keep connections to the outside. If the target could
    /// only be told not, it is gone and its connections are not kept.
    #[error("dump: {what} the keeper of its connections")]
    Keeper {
        /// What was done.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Whoever watches failed at a stage.
    #[error("dump: stage {stage}")]
    Stage {
        /// Its name.
        stage: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
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
    /// A live dump that would end its target.
    #[error("dump pid {pid}: --live is for a target that goes on")]
    LiveEnds {
        /// The task.
        pid: u32,
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
    /// Kept connections could not be had.
    #[error("restore: take back its connections")]
    Keeper {
        /// Why.
        #[source]
        source: KeeperError,
    },
    /// The caller cancelled it.
    #[error("restore: cancelled")]
    Cancelled,
    /// The caller's own work at a stage failed.
    #[error("restore: stage {}", .stage.name())]
    Stage {
        /// The stage.
        stage: Stage,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A namespace could not be made.
    #[error("restore: {what}")]
    Namespace {
        /// What was done.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A process could not be created.
    #[error("restore pid {pid}: create the process")]
    Spawn {
        /// The pid of the image.
        pid: u32,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A single step inside the restored task failed.
    #[error("restore pid {pid}: {what}")]
    Step {
        /// The pid of the image.
        pid: u32,
        /// The step.
        what: String,
        /// Why it failed.
        #[source]
        source: Errno,
    },
    /// A call of a script inside the restored task failed.
    #[error("restore pid {pid}: {stage}, in thread {tid}")]
    Script {
        /// The pid of the image.
        pid: u32,
        /// The thread of the image.
        tid: u32,
        /// The part of the restore it belongs to.
        stage: &'static str,
        /// The call.
        #[source]
        source: ScriptError,
    },
    /// The task under restore could not be controlled.
    #[error("restore pid {pid}: {what}")]
    Remote {
        /// The pid of the image.
        pid: u32,
        /// What was done.
        what: String,
        /// Why it failed.
        #[source]
        source: RemoteError,
    },
    /// /proc of the task under restore could not be read.
    #[error("restore pid {pid}: read {what}")]
    Proc {
        /// The pid of the image.
        pid: u32,
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The address space has no room for the restorer.
    #[error("restore pid {pid}: no {len} bytes are free both in icecore and in the task")]
    NoRoom {
        /// The pid of the image.
        pid: u32,
        /// Bytes needed.
        len: u64,
    },
    /// The task cannot live under a new pid.
    #[error("restore pid {pid} under a new pid: {reason}")]
    NewPid {
        /// The pid of the image.
        pid: u32,
        /// Why.
        reason: String,
    },
}

impl DumpError {
    /// What would change it.
    pub fn help(&self) -> Option<String> {
        match self {
            DumpError::Freeze { source, .. } => source.help(),
            DumpError::Inject { source, .. } => source.help().map(str::to_owned),
            DumpError::Image(error) => error.help().map(str::to_owned),
            DumpError::Space { .. } => {
                Some("free space there, or give another directory".to_owned())
            }
            _ => None,
        }
    }
}

fn count(n: usize) -> String {
    match n {
        1 => "one thing".to_owned(),
        n => format!("{n} things"),
    }
}
