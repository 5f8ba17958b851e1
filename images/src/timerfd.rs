//! timerfd_create(2).

use serde::{Deserialize, Serialize};

/// `fdinfo` of a timerfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerFdState {
    /// CLOCK_*.
    pub clock: i32,
    /// TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET.
    pub settime_flags: u32,
    /// Expirations not yet read.
    pub ticks: u64,
    /// When it expires next, nanoseconds; 0: disarmed. An absolute time is one
    /// of its own clock, any other one of the task's CLOCK_MONOTONIC.
    pub expires_ns: u64,
    /// Nanoseconds between expiries.
    pub interval_ns: u64,
}
