//! What a dump and a restore can be told.

use std::path::PathBuf;
use std::time::Duration;

/// Options of a dump.
#[derive(Debug, Clone)]
pub struct DumpOptions {
    /// The root task.
    pub pid: u32,
    /// Directory of the image.
    pub images_dir: PathBuf,
    /// What becomes of the target afterwards.
    pub after: After,
    /// Largest content of a deleted file that is carried, bytes.
    pub ghost_limit: u64,
    /// Time limit for freezing.
    pub timeout: Duration,
    /// Inject although a seccomp filter could kill the target.
    pub risk_seccomp: bool,
    /// Worker threads that copy pages.
    pub threads: Option<usize>,
}

/// What becomes of the target after a complete dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It is ended.
    Kill,
    /// It goes on (`-R`).
    Run,
    /// It is left stopped (`-s`).
    Stop,
}

/// Options of a restore.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Directory of the image.
    pub images_dir: PathBuf,
    /// Do not stay until the task ends.
    pub detached: bool,
    /// Make the task a child of icecore's caller.
    pub sibling: bool,
    /// Leave it stopped.
    pub leave_stopped: bool,
    /// Which pids it gets.
    pub pids: PidPolicy,
    /// CLOCK_MONOTONIC and CLOCK_BOOTTIME go on from the dump.
    pub clock_from_dump: bool,
    /// Only plan.
    pub dry_run: bool,
}

/// Which pids a restored task gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidPolicy {
    /// Those it had.
    Same,
    /// Fresh ones, where the task's shape allows it.
    New,
    /// Those it had, in a pid namespace of its own.
    Namespace,
}
