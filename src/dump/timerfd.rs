//! timerfd_create(2).

use icecore_images::files::FileKind;
use icecore_images::timerfd::TimerFdState;

use super::DumpContext;
use super::descriptor::Descriptor;
use super::outside;
use crate::error::DumpError;
use crate::kernel::fdinfo::TimerInfo;

/// Clock, expiry and unread ticks. A timer goes on while the task is frozen;
/// what has passed since the freeze is given back to it.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    d: &Descriptor,
) -> Result<Option<FileKind>, DumpError> {
    let Some(timer) = d.info.timer else {
        return outside::refuse_anonymous(ctx, d);
    };
    let frozen = ctx
        .frozen_since
        .map_or(0, |since| since.elapsed().as_nanos() as u64);
    Ok(Some(FileKind::TimerFd(TimerFdState {
        clock: timer.clock,
        settime_flags: timer.settime_flags,
        ticks: timer.ticks,
        remaining_ns: at_freeze(timer, frozen),
        interval_ns: timer.interval_ns,
    })))
}

/// What remained `frozen` nanoseconds ago. A timer that has fired since then
/// keeps that tick, and its next one is at most an interval away.
fn at_freeze(timer: TimerInfo, frozen: u64) -> u64 {
    match (timer.value_ns, timer.interval_ns) {
        (0, _) => 0,
        (value, 0) => value.saturating_add(frozen),
        (value, interval) => value.saturating_add(frozen).min(value.max(interval)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_frozen_is_given_back() {
        let timer = |value_ns, interval_ns| TimerInfo {
            value_ns,
            interval_ns,
            ..TimerInfo::default()
        };
        assert_eq!(at_freeze(timer(0, 0), 5), 0);
        assert_eq!(at_freeze(timer(10, 0), 5), 15);
        assert_eq!(at_freeze(timer(10, 12), 5), 12);
        assert_eq!(at_freeze(timer(100, 12), 5), 100);
    }
}
