//! timerfd_create(2).

use std::os::fd::OwnedFd;

use icecore_images::timerfd::TimerFdState;
use rustix::fs::OFlags;
use rustix::time::{TimerfdClockId, TimerfdFlags};

use super::RestoreContext;
use crate::kernel::descriptor_calls::TFD_IOC_SET_TICKS;
use crate::tracer::{Arg, Script};

const NANOS: u64 = 1_000_000_000;
const ABSTIME: u32 = 1;

fn clock(number: i32) -> Option<TimerfdClockId> {
    Some(match number {
        libc::CLOCK_REALTIME => TimerfdClockId::Realtime,
        libc::CLOCK_MONOTONIC => TimerfdClockId::Monotonic,
        libc::CLOCK_BOOTTIME => TimerfdClockId::Boottime,
        libc::CLOCK_REALTIME_ALARM => TimerfdClockId::RealtimeAlarm,
        libc::CLOCK_BOOTTIME_ALARM => TimerfdClockId::BoottimeAlarm,
        _ => return None,
    })
}

/// Whether creating it needs CAP_WAKE_ALARM.
pub(super) fn wakes_the_machine(state: &TimerFdState) -> bool {
    matches!(
        state.clock,
        libc::CLOCK_REALTIME_ALARM | libc::CLOCK_BOOTTIME_ALARM
    )
}

/// A timer, not armed yet.
pub(super) fn open(state: &TimerFdState, flags: OFlags) -> std::io::Result<OwnedFd> {
    let clock = clock(state.clock).ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut how = TimerfdFlags::CLOEXEC;
    how.set(TimerfdFlags::NONBLOCK, flags.contains(OFlags::NONBLOCK));
    Ok(rustix::time::timerfd_create(clock, how)?)
}

/// Arms it, in the task, whose clocks may be its own.
pub(super) fn arm(ctx: &RestoreContext<'_>, fd: u32, state: &TimerFdState, script: &mut Script) {
    let (flags, value) = setting(ctx, state);
    let words = [
        state.interval_ns / NANOS,
        state.interval_ns % NANOS,
        value / NANOS,
        value % NANOS,
    ];
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let new = script.bytes(&bytes);
    let fd = Arg::Value(fd.into());
    let args = [fd, Arg::Value(flags.into()), new.into(), Arg::Value(0)];
    script.call("arm a timerfd", libc::SYS_timerfd_settime as u32, args);
    if state.ticks != 0 {
        let ticks = script.bytes(&state.ticks.to_le_bytes());
        let args = [fd, Arg::Value(TFD_IOC_SET_TICKS), ticks.into()];
        script.call("set the ticks of a timerfd", libc::SYS_ioctl as u32, args);
    }
}

/// Flags and value of timerfd_settime. An absolute time stays what it was, as
/// long as the task's clocks go on; a relative one goes on with what remains.
fn setting(ctx: &RestoreContext<'_>, state: &TimerFdState) -> (u32, u64) {
    let clocks = &ctx.image.clocks;
    let (flags, expires) = (state.settime_flags, state.expires_ns);
    let passed = ctx.monotonic_ns() - clocks.monotonic_ns;
    let remains = |since: i64| (expires as i64 - since - passed).max(1) as u64;
    match state.clock {
        _ if expires == 0 => (flags, 0),
        _ if flags & ABSTIME == 0 => (flags, remains(clocks.monotonic_ns)),
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM => (flags, expires),
        _ if ctx.options.clock_from_dump => (flags, expires),
        libc::CLOCK_MONOTONIC => (flags & !ABSTIME, remains(clocks.monotonic_ns)),
        _ => (flags & !ABSTIME, remains(clocks.boottime_ns)),
    }
}
