//! What prctl(2) and arch_prctl(2) keep for a task, a thread or an address
//! space, apart from what has a file of its own.

use serde::{Deserialize, Serialize};

/// prctl state of a whole task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskControls {
    /// PR_GET_CHILD_SUBREAPER.
    pub child_subreaper: bool,
    /// ARCH_GET_XCOMP_PERM: extended-state components the task may use.
    pub xcomp_permission: u64,
    /// Commands of membarrier(2) the task has registered for (a bit mask of
    /// MEMBARRIER_CMD_REGISTER_*).
    pub membarrier: u32,
    /// PR_GET_TIMERSLACK's default is per thread; PR_TIMER_CREATE_RESTORE_IDS.
    pub timer_restore_ids: bool,
}

/// prctl state of a thread.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadControls {
    /// PR_GET_PDEATHSIG.
    pub parent_death_signal: u32,
    /// PR_GET_IO_FLUSHER.
    pub io_flusher: bool,
    /// PR_GET_TSC: 1 allowed, 2 SIGSEGV.
    pub tsc: u32,
    /// ARCH_GET_CPUID: false faults. `None` where the CPU cannot fault.
    pub cpuid: Option<bool>,
    /// PR_MCE_KILL_GET.
    pub mce_kill: u32,
    /// PR_GET_SPECULATION_CTRL by feature (store bypass, indirect branch, L1D
    /// flush), raw.
    pub speculation: [u32; 3],
    /// `/proc/PID/personality`.
    pub personality: u32,
    /// PR_GET_UNALIGN and friends do not exist here; PR_GET_TID_ADDRESS is in
    /// the thread. NUMA policy of the thread.
    pub numa: NumaPolicy,
}

/// `get_mempolicy(2)`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumaPolicy {
    /// MPOL_* with its mode flags.
    pub mode: u32,
    /// Node mask.
    pub nodes: Vec<u64>,
}

/// prctl state of an address space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MmControls {
    /// PR_GET_DUMPABLE.
    pub dumpable: u32,
    /// PR_GET_THP_DISABLE, with its flags where the kernel has them.
    pub thp_disable: u64,
    /// PR_GET_MEMORY_MERGE.
    pub memory_merge: bool,
    /// PR_GET_MDWE.
    pub mdwe: u32,
    /// MCL_* flags of mlockall(2): MCL_FUTURE and MCL_ONFAULT for areas to come.
    pub mlock_future: MlockFuture,
    /// `/proc/PID/coredump_filter`.
    pub coredump_filter: u32,
}

/// What mlockall(2) does to areas mapped later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MlockFuture {
    /// Nothing.
    #[default]
    No,
    /// MCL_FUTURE.
    Locked,
    /// MCL_FUTURE | MCL_ONFAULT.
    OnFault,
}
