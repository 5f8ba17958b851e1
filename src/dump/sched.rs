//! Scheduling: policy, priorities, affinity, autogroup, which can be read from
//! outside. (Timer slack cannot without CAP_SYS_NICE: the thread is asked.)

use std::io;

use icecore_images::sched::{Autogroup, SchedState};

use crate::kernel::proc_text::{self, malformed, number, words};
use crate::kernel::sched::{SchedAttr, affinity, attributes, io_priority};

/// Clamps of a task that nobody has clamped.
const UNCLAMPED: (u32, u32) = (0, 1024);

/// How a thread is scheduled.
pub(super) fn collect(tid: u32) -> io::Result<SchedState> {
    let attr = attributes(tid)?;
    let clamped = clamps(&attr);
    Ok(SchedState {
        policy: attr.policy,
        flags: attr.flags,
        nice: attr.nice,
        priority: attr.priority,
        runtime_ns: runtime(&attr)?,
        deadline_ns: attr.deadline,
        period_ns: attr.period,
        util_min: clamped.map(|c| c.0),
        util_max: clamped.map(|c| c.1),
        affinity: affinity(tid)?,
        io_priority: io_priority(tid)?,
        // The thread itself is asked: see prctl.
        timer_slack_ns: 0,
    })
}

/// For a deadline task its budget. For others the kernel (6.12) reports the
/// slice, whether or not it was asked for: only one that differs from our own
/// was.
fn runtime(attr: &SchedAttr) -> io::Result<u64> {
    if attr.policy == libc::SCHED_DEADLINE as u32 {
        return Ok(attr.runtime);
    }
    let own = attributes(0)?.runtime;
    Ok(if attr.runtime == own { 0 } else { attr.runtime })
}

/// A kernel without CONFIG_UCLAMP_TASK reports zeros, one with it the full
/// range for a task that is not clamped.
fn clamps(attr: &SchedAttr) -> Option<(u32, u32)> {
    let clamps = (attr.util_min, attr.util_max);
    (clamps != (0, 0) && clamps != UNCLAMPED).then_some(clamps)
}

/// `/autogroup-8 nice 0`; empty for a task outside any, absent in a kernel
/// without CONFIG_SCHED_AUTOGROUP.
pub(super) fn autogroup(tid: u32) -> io::Result<Option<Autogroup>> {
    let Some(text) = proc_text::read_if_there(tid, "autogroup")? else {
        return Ok(None);
    };
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    parse_autogroup(&text)
        .map(Some)
        .ok_or_else(|| malformed("autogroup"))
}

fn parse_autogroup(text: &[u8]) -> Option<Autogroup> {
    let mut words = words(text);
    let id = number(words.next()?.strip_prefix(b"/autogroup-")?)?;
    let nice = number(words.nth(1)?)?;
    Some(Autogroup { id, nice })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn autogroups_are_read() {
        let expected = Autogroup { id: 8, nice: -3 };
        assert_eq!(parse_autogroup(b"/autogroup-8 nice -3\n"), Some(expected));
        assert_eq!(parse_autogroup(b"/elsewhere\n"), None);
    }

    #[test]
    fn only_real_clamps_count() {
        let attr = |util_min, util_max| SchedAttr {
            util_min,
            util_max,
            ..SchedAttr::default()
        };
        assert_eq!(clamps(&attr(0, 0)), None);
        assert_eq!(clamps(&attr(0, 1024)), None);
        assert_eq!(clamps(&attr(0, 512)), Some((0, 512)));
    }

    #[test]
    fn our_own_slice_is_the_default() -> io::Result<()> {
        let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let sched = collect(tid)?;
        assert_eq!(sched.runtime_ns, 0);
        assert!(!sched.affinity.is_empty());
        Ok(())
    }
}
