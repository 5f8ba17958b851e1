//! Scheduling, affinity and priorities.

use serde::{Deserialize, Serialize};

/// Scheduling state of a thread.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedState {
    /// SCHED_* policy (`sched_getattr`).
    pub policy: u32,
    /// SCHED_FLAG_*.
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Static priority (FIFO, RR).
    pub priority: u32,
    /// SCHED_DEADLINE, nanoseconds; for EEVDF `runtime` is the custom slice.
    pub runtime_ns: u64,
    /// SCHED_DEADLINE.
    pub deadline_ns: u64,
    /// SCHED_DEADLINE.
    pub period_ns: u64,
    /// Utilisation clamps, where the kernel has them.
    pub util_min: Option<u32>,
    /// See `util_min`.
    pub util_max: Option<u32>,
    /// Allowed CPUs, as a bit mask of bytes, least significant first.
    pub affinity: Vec<u8>,
    /// `ioprio_get`.
    pub io_priority: u32,
    /// Timer slack, nanoseconds.
    pub timer_slack_ns: u64,
}

/// `/proc/PID/autogroup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autogroup {
    /// Its id at the dump; shown only.
    pub id: u64,
    /// Its nice value.
    pub nice: i32,
}
