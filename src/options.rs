//! What a dump and a restore can be told.

mod cgroup;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::observer::{Cancel, Observer, Unobserved};
use crate::outside::OutsideRules;

pub(crate) use cgroup::is_called;
pub use cgroup::{
    CgroupMode, CgroupOptions, CgroupProperties, CgroupRoot, CgroupSelection, CgroupSpecError,
};

/// Options of a dump.
#[derive(Debug, Clone)]
pub struct DumpOptions {
    /// The root task.
    pub pid: u32,
    /// Directory of the image.
    pub images_dir: PathBuf,
    /// What becomes of the target afterwards.
    pub after: After,
    /// That its session is led from outside is known and needs no note (`-j`).
    pub shell_job: bool,
    /// Largest content of a deleted file that is carried, bytes.
    pub ghost_limit: u64,
    /// What becomes of TCP connections whose other end is outside the dump.
    pub tcp: TcpPolicy,
    /// Time limit for freezing.
    pub timeout: Duration,
    /// Inject although a seccomp filter could kill the target.
    pub risk_seccomp: bool,
    /// What becomes of connections to the outside; refused unless told
    /// otherwise.
    pub outside: OutsideRules,
    /// How long a keeper waits for a restore; `None`: for ever. Given where the
    /// target goes on, there is a keeper nevertheless.
    pub keep_for: Option<Duration>,
    /// Let the target go on at once and copy pages from a copy of it.
    pub live: bool,
    /// Worker threads that copy pages.
    pub threads: Option<usize>,
    /// What is recorded of cgroups.
    pub cgroups: CgroupOptions,
    /// Which of them, and which of their properties.
    pub cgroup_selection: CgroupSelection,
    /// Names of files of the caller's (a log file) that may be in the
    /// directory already.
    pub beside: Vec<OsString>,
    /// Who is told of stages and progress.
    pub observer: Arc<dyn Observer>,
    /// Ends the dump early, the target unharmed.
    pub cancel: Cancel,
}

impl DumpOptions {
    /// A dump of `pid` into `images_dir` that ends the target.
    pub fn new(pid: u32, images_dir: impl Into<PathBuf>) -> Self {
        Self {
            pid,
            images_dir: images_dir.into(),
            after: After::Kill,
            shell_job: false,
            ghost_limit: DEFAULT_GHOST_LIMIT,
            tcp: TcpPolicy::Refuse,
            timeout: DEFAULT_TIMEOUT,
            risk_seccomp: false,
            outside: OutsideRules::default(),
            keep_for: None,
            live: false,
            threads: None,
            cgroups: CgroupOptions::default(),
            cgroup_selection: CgroupSelection::default(),
            beside: Vec::new(),
            observer: Arc::new(Unobserved),
            cancel: Cancel::new(),
        }
    }
}

/// Largest content of a deleted file that is carried unless told otherwise,
/// bytes.
pub const DEFAULT_GHOST_LIMIT: u64 = 1 << 20;

/// Time limit for freezing unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// What becomes of TCP connections whose other end is outside the dump, where
/// no rule for connections to the outside says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpPolicy {
    /// The dump is refused.
    Refuse,
    /// They sleep with the target, whatever passes in between them dropped by
    /// a lock in nftables, and go on when it wakes up (`--tcp-established`).
    Established,
    /// They come back closed (`--tcp-close`).
    Close,
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
    /// That a task led from outside joins our session needs no note (`-j`).
    pub shell_job: bool,
    /// Which pids it gets.
    pub pids: PidPolicy,
    /// CLOCK_MONOTONIC and CLOCK_BOOTTIME go on from the dump.
    pub clock_from_dump: bool,
    /// Only plan.
    pub dry_run: bool,
    /// Treat this kernel's vDSO as another one than the dump's: forward the old
    /// entry points. For tests.
    pub forward_vdso: bool,
    /// What becomes of connections to the outside, where it is another than the
    /// dump has said.
    pub outside: OutsideRules,
    /// Descriptors of the caller's in place of descriptions of the image.
    pub inherit: Vec<Inherited>,
    /// Worker threads that fill pages.
    pub threads: Option<usize>,
    /// What becomes of cgroups.
    pub cgroups: CgroupOptions,
    /// Who is told of stages and progress.
    pub observer: Arc<dyn Observer>,
    /// Ends the restore early, with nothing left behind.
    pub cancel: Cancel,
}

impl RestoreOptions {
    /// A restore of `images_dir`: same pids, clocks go on from the dump, the
    /// task a child of this process.
    pub fn new(images_dir: impl Into<PathBuf>) -> Self {
        Self {
            images_dir: images_dir.into(),
            detached: false,
            sibling: false,
            leave_stopped: false,
            shell_job: false,
            pids: PidPolicy::Same,
            clock_from_dump: true,
            dry_run: false,
            forward_vdso: false,
            outside: OutsideRules::default(),
            inherit: Vec::new(),
            threads: None,
            cgroups: CgroupOptions::default(),
            observer: Arc::new(Unobserved),
            cancel: Cancel::new(),
        }
    }
}

/// A descriptor of the caller's that a restored task gets instead of its own.
#[derive(Debug, Clone)]
pub struct Inherited {
    /// Which of the task's: `pipe:[INODE]` or `socket:[INODE]` as
    /// `/proc/PID/fd` showed it, `tty[RDEV:DEV]` in hexadecimal, or the path of
    /// a file, with or without its first slash.
    pub key: String,
    /// What it gets.
    pub fd: Arc<OwnedFd>,
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
