//! timerfd_create(2).

use icecore_images::files::FileKind;
use icecore_images::timerfd::TimerFdState;

use super::DumpContext;
use super::descriptor::Descriptor;
use super::outside;
use crate::error::DumpError;
use crate::kernel::clocks::TaskClock;
use crate::kernel::fdinfo::{self, TimerInfo};

/// Clock, expiry and unread ticks. A timer goes on while the task is frozen,
/// as its clocks do: what is kept is the moment of its expiry.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    d: &Descriptor,
) -> Result<Option<FileKind>, DumpError> {
    let Some(timer) = d.info.timer else {
        return outside::refuse_anonymous(ctx, d);
    };
    let (timer, now) = read(d, timer)?;
    let remaining = i64::try_from(timer.value_ns).unwrap_or(i64::MAX);
    let expires = match remaining {
        0 => 0,
        remaining => now.saturating_add(remaining).max(1) as u64,
    };
    Ok(Some(FileKind::TimerFd(TimerFdState {
        clock: timer.clock,
        settime_flags: timer.settime_flags,
        ticks: timer.ticks,
        expires_ns: expires,
        interval_ns: timer.interval_ns,
    })))
}

const ABSTIME: u32 = 1;

/// The timer, and the clock it is kept by when it was read: between two looks
/// at that clock that are close together, if the machine lets us.
fn read(d: &Descriptor, seen: TimerInfo) -> Result<(TimerInfo, i64), DumpError> {
    const CLOSE_NS: i64 = 50_000;
    let error = |e| d.error("timer", e);
    let clock = match seen.settime_flags & ABSTIME {
        0 => libc::CLOCK_MONOTONIC,
        _ => seen.clock,
    };
    let clock = TaskClock::of(d.table.tid, clock).map_err(error)?;
    let path = d.info_path();
    let mut best: Option<(i64, TimerInfo, i64)> = None;
    for _ in 0..20 {
        catch_up(d, seen)?;
        let before = clock.now();
        let info = fdinfo::read(&path).map_err(error)?;
        let took = clock.now() - before;
        let timer = info.timer.unwrap_or(seen);
        if !is_at_rest(timer) && best.is_none_or(|(least, ..)| took < least) {
            best = Some((took, timer, before + took / 2));
        }
        if best.is_some_and(|(least, ..)| least < CLOSE_NS) {
            break;
        }
    }
    Ok(match best {
        Some((_, timer, now)) => (timer, now),
        // It fires faster than we look: its next expiry is now.
        None => (
            TimerInfo {
                value_ns: 1,
                ..seen
            },
            clock.now(),
        ),
    })
}

/// A periodic timer that has fired is at rest until somebody asks. (Without
/// ticks it is disarmed.)
fn is_at_rest(timer: TimerInfo) -> bool {
    timer.value_ns == 0 && timer.interval_ns != 0 && timer.ticks != 0
}

/// Asks, which changes nothing that the task could tell and makes the timer
/// count what it missed.
fn catch_up(d: &Descriptor, timer: TimerInfo) -> Result<(), DumpError> {
    if timer.interval_ns != 0 {
        let asked = rustix::time::timerfd_gettime(d.duplicate()?);
        asked.map_err(|e| d.error("timer", e.into()))?;
    }
    Ok(())
}
