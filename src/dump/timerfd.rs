//! timerfd_create(2).

use icecore_images::files::FileKind;
use icecore_images::timerfd::TimerFdState;

use super::DumpContext;
use super::descriptor::{Descriptor, Table};
use super::outside;
use crate::error::DumpError;
use crate::kernel::fdinfo::{self, TimerInfo};

/// Clock, expiry and unread ticks. A timer goes on while the task is frozen,
/// as its clocks do: what is kept is the moment of its expiry.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    table: &Table,
    d: &Descriptor,
) -> Result<Option<FileKind>, DumpError> {
    let Some(timer) = d.info.timer else {
        return outside::refuse_anonymous(ctx, d);
    };
    let (timer, now) = catch_up(table, d, timer)?;
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

/// The timer, and the task's CLOCK_MONOTONIC when it was read. A periodic
/// timer that has fired is at rest until somebody asks; asking, which changes
/// nothing that the task could tell, makes it count what it missed.
fn catch_up(
    table: &Table,
    d: &Descriptor,
    timer: TimerInfo,
) -> Result<(TimerInfo, i64), DumpError> {
    let error = |e| d.error("timer", e);
    if timer.value_ns == 0 && timer.interval_ns != 0 {
        let duplicate = table.duplicate(d)?;
        rustix::time::timerfd_gettime(duplicate).map_err(|e| error(e.into()))?;
    }
    let now = table.monotonic().map_err(error)?;
    let info = fdinfo::read(&table.proc().join(format!("fdinfo/{}", d.fd))).map_err(error)?;
    Ok((info.timer.unwrap_or(timer), now))
}
