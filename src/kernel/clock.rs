//! Clocks of this machine.

use icecore_images::timers::ClockState;
use rustix::time::{ClockId, clock_gettime};

/// All clocks, now.
pub(crate) fn read() -> ClockState {
    let now = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec
            .saturating_mul(1_000_000_000)
            .saturating_add(time.tv_nsec)
    };
    ClockState {
        realtime_ns: now(ClockId::Realtime),
        monotonic_ns: now(ClockId::Monotonic),
        boottime_ns: now(ClockId::Boottime),
    }
}
