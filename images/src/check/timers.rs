//! Timers of all kinds.

use super::numbers::{bits, offset, one_of, signal, within};
use super::problem::{Found, Problem};
use crate::task::TaskState;
use crate::timerfd::TimerFdState;
use crate::timers::{PosixTimer, TimerNotify};

/// CLOCK_REALTIME, MONOTONIC, PROCESS_CPUTIME_ID, THREAD_CPUTIME_ID, BOOTTIME,
/// REALTIME_ALARM, BOOTTIME_ALARM, TAI.
const TIMER_CLOCKS: [i32; 8] = [0, 1, 2, 3, 7, 8, 9, 11];

/// Those a timerfd counts on.
const TIMERFD_CLOCKS: [i32; 5] = [0, 1, 7, 8, 9];

pub(super) fn timerfd(timer: &TimerFdState) -> Found {
    one_of("clock", timer.clock, &TIMERFD_CLOCKS)?;
    // TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET.
    bits("timer flags", u64::from(timer.settime_flags), 3)?;
    offset("time of the next expiry", timer.expires_ns)?;
    offset("interval", timer.interval_ns)
}

/// Interval timers and POSIX timers of a task.
pub(super) fn of_task(task: &TaskState) -> Found {
    for timer in &task.interval_timers {
        offset("time of an interval timer", timer.value_us)?;
        offset("interval of an interval timer", timer.interval_us)?;
    }
    let mut last = None;
    for timer in &task.posix_timers {
        posix_timer(task, timer)?;
        if last >= Some(timer.id) {
            let (what, value) = ("timer", u64::from(timer.id));
            return Err(Problem::Order { what, value });
        }
        last = Some(timer.id);
    }
    Ok(())
}

fn posix_timer(task: &TaskState, timer: &PosixTimer) -> Found {
    within("timer id", timer.id, 0..=i32::MAX as u32)?;
    if !is_cpu_clock(timer.clock) {
        one_of("clock of a timer", timer.clock, &TIMER_CLOCKS)?;
    }
    match timer.notify {
        TimerNotify::None => {}
        TimerNotify::Signal => signal(timer.signal)?,
        TimerNotify::Thread { tid } => {
            signal(timer.signal)?;
            if !task.threads.iter().any(|thread| thread.tid == tid) {
                let (what, id) = ("thread", tid);
                return Err(Problem::Dangling { what, id });
            }
        }
    }
    offset("time of a timer", timer.remaining_ns)?;
    offset("interval of a timer", timer.interval_ns)?;
    within("overrun of a timer", timer.overrun, 0..=i32::MAX as u32)
}

/// The CPU clock of a task or thread by id: negative, and its low bits are not
/// those of a clock that is a descriptor.
fn is_cpu_clock(clock: i32) -> bool {
    const KIND: i32 = 3;
    clock < 0 && clock & KIND != KIND
}
