//! Interval timers, POSIX timers and the clocks they count on.

use serde::{Deserialize, Serialize};

/// `getitimer(2)`: remaining time and interval, microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct IntervalTimer {
    pub value_us: u64,
    pub interval_us: u64,
}

/// A `timer_create(2)` timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PosixTimer {
    /// Kernel timer id.
    pub id: u32,
    /// CLOCK_*; negative for the CPU clock of a task or thread by id.
    pub clock: i32,
    /// Who is told, and how.
    pub notify: TimerNotify,
    /// Signal number (SIGEV_SIGNAL, SIGEV_THREAD_ID).
    pub signal: u32,
    /// `sigev_value`.
    pub value: u64,
    /// Nanoseconds to the next expiry; 0: disarmed.
    pub remaining_ns: u64,
    /// Nanoseconds between expiries; 0: once.
    pub interval_ns: u64,
    /// `timer_getoverrun`.
    pub overrun: u32,
    /// Its signal is queued and not yet taken (and is not in the queue of the
    /// image: the timer sends it again).
    pub fired: bool,
}

/// `sigev_notify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimerNotify {
    /// SIGEV_NONE.
    None,
    /// SIGEV_SIGNAL to the task.
    Signal,
    /// SIGEV_THREAD_ID.
    Thread {
        /// The thread.
        tid: u32,
    },
}

/// The clocks at the instant of the freeze, as the task itself reads them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockState {
    /// CLOCK_REALTIME, nanoseconds.
    pub realtime_ns: i64,
    /// CLOCK_MONOTONIC as the target sees it, nanoseconds.
    pub monotonic_ns: i64,
    /// CLOCK_BOOTTIME as the target sees it, nanoseconds.
    pub boottime_ns: i64,
}
