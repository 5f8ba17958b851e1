//! A task (thread group) and what belongs to it as a whole.

use serde::{Deserialize, Serialize};

use crate::ids::{FdTableId, FsId, MmId, SigHandId};
use crate::limits::Rlimit;
use crate::prctl::TaskControls;
use crate::sched::Autogroup;
use crate::signals::PendingSignal;
use crate::thread::ThreadState;
use crate::timers::{IntervalTimer, PosixTimer};

/// One task of the forest: its place in the tree, what it shares with others
/// (by id, so that a whole tree can share again), and its threads.
///
/// Tasks share an object (CLONE_VM, CLONE_FILES, CLONE_FS, CLONE_SIGHAND) if and
/// only if they have the same id for it. A zombie has none, no threads and no
/// limits: its ids are 0 and mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskState {
    /// Thread-group id in the pid namespace the dump saw it in.
    pub pid: u32,
    /// Parent within the dump; `None` for a root of the forest.
    pub parent: Option<u32>,
    /// Process group. Its leader need not be in the dump: it may have ended, or
    /// be outside (then the root is in that group, too).
    pub pgid: u32,
    /// Session. Its leader need not be in the dump either.
    pub sid: u32,
    /// Innermost-last pids of the task in nested pid namespaces (`NSpid`).
    pub ns_pids: Vec<u32>,
    /// What the task was doing when it was frozen.
    pub run: RunState,
    /// Signal sent to the parent when the task ends (field 38 of `stat`).
    pub exit_signal: u32,
    /// Address space.
    pub mm: MmId,
    /// Descriptor table.
    pub fd_table: FdTableId,
    /// Working directory, root, umask.
    pub fs: FsId,
    /// Signal actions.
    pub sig_hand: SigHandId,
    /// Shared pending signals, in queue order.
    pub pending: Vec<PendingSignal>,
    /// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF.
    pub interval_timers: [IntervalTimer; 3],
    /// `timer_create` timers, by id.
    pub posix_timers: Vec<PosixTimer>,
    /// Soft and hard limits, indexed by RLIMIT_*.
    pub rlimits: Vec<Rlimit>,
    /// `/proc/PID/oom_score_adj`.
    pub oom_score_adj: i32,
    /// `/proc/PID/loginuid` (u32::MAX: unset).
    pub login_uid: u32,
    /// `/proc/PID/autogroup`, where the kernel has it.
    pub autogroup: Option<Autogroup>,
    /// prctl state that belongs to the whole task.
    pub controls: TaskControls,
    /// CPU time used so far; shown, not restored.
    pub cpu_time: CpuTime,
    /// Threads, the leader first where it is alive.
    pub threads: Vec<ThreadState>,
}

/// What a task was doing when it was frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    /// Running or sleeping.
    Running,
    /// Stopped by job control with this signal.
    Stopped {
        /// The stop signal.
        signal: u32,
    },
    /// Ended, not yet reaped.
    Zombie {
        /// Raw wait status.
        status: i32,
    },
}

/// CPU time of a task in clock ticks (fields 14 to 17 of `stat`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuTime {
    /// User mode.
    pub user: u64,
    /// Kernel mode.
    pub system: u64,
    /// Reaped children, user mode.
    pub children_user: u64,
    /// Reaped children, kernel mode.
    pub children_system: u64,
}
