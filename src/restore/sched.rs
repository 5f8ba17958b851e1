//! Scheduling: timer slack, affinity, I/O priority, policy.
//!
//! Ordering requirements:
//! - timer slack before the policy: real-time policies have none;
//! - affinity before the policy: a deadline task's cannot be changed;
//! - all of it before the credentials, which may drop CAP_SYS_NICE.

use icecore_images::sched::SchedState;
use linux_raw_sys::prctl::PR_SET_TIMERSLACK;

use super::RestoreContext;
use crate::blocker::Place;
use crate::kernel::capability::{self, CAP_SYS_NICE};
use crate::kernel::limits;
use crate::kernel::sched::{SchedAttr, attributes};
use crate::tracer::{Script, args};

const IOPRIO_WHO_PROCESS: u32 = 1;
const IOPRIO_CLASS_SHIFT: u32 = 13;
const SCHED_FLAG_UTIL_CLAMP: u64 = 0x60;

/// Schedules the thread as it was.
pub(super) fn restore(sched: &SchedState, script: &mut Script) {
    if sched.timer_slack_ns != 0 {
        let args = args![PR_SET_TIMERSLACK, sched.timer_slack_ns];
        script.call("set the timer slack", libc::SYS_prctl as u32, args);
    }
    let mask = script.bytes(&sched.affinity);
    let nr = libc::SYS_sched_setaffinity as u32;
    script.call(
        "set the CPU affinity",
        nr,
        args![0, sched.affinity.len(), mask],
    );
    let args = args![IOPRIO_WHO_PROCESS, 0, io_priority(sched)];
    script.call("set the I/O priority", libc::SYS_ioprio_set as u32, args);
    let attr = script.bytes(&attr(sched).to_bytes());
    let nr = libc::SYS_sched_setattr as u32;
    script.call("set the scheduling policy", nr, args![0, attr, 0]);
}

/// Without a class there is no level, though some kernels report one.
fn io_priority(sched: &SchedState) -> u32 {
    match sched.io_priority >> IOPRIO_CLASS_SHIFT {
        0 => 0,
        _ => sched.io_priority,
    }
}

fn attr(sched: &SchedState) -> SchedAttr {
    let clamped = match (sched.util_min, sched.util_max) {
        (None, None) => 0,
        _ => SCHED_FLAG_UTIL_CLAMP,
    };
    SchedAttr {
        policy: sched.policy,
        flags: sched.flags | clamped,
        nice: sched.nice,
        priority: sched.priority,
        runtime: sched.runtime_ns,
        deadline: sched.deadline_ns,
        period: sched.period_ns,
        util_min: sched.util_min.unwrap_or(0),
        util_max: sched.util_max.unwrap_or(1024),
    }
}

/// Notes missing CPUs and privileges.
pub(super) fn plan(ctx: &mut RestoreContext<'_>, place: &Place, sched: &SchedState) {
    let online = online_cpus();
    let wanted = bits(&sched.affinity);
    let missing: Vec<_> = wanted.iter().filter(|c| !online.contains(c)).collect();
    if !online.is_empty() && missing.len() == wanted.len() {
        let problem = format!("it may run on CPUs {wanted:?} alone, none of which is here");
        ctx.obstacle(place.clone(), problem, None);
    } else if !online.is_empty() && !missing.is_empty() {
        let text = format!(
            "{place} may run on CPUs {missing:?}, which are not here; it runs on the others"
        );
        ctx.notes.push(text);
    }
    if needs_privilege(sched) && !capability::have(CAP_SYS_NICE) {
        let problem = format!(
            "its scheduling (policy {}, nice {}, priority {}) needs CAP_SYS_NICE",
            sched.policy, sched.nice, sched.priority
        );
        ctx.obstacle(
            place.clone(),
            problem,
            Some("run icecore with CAP_SYS_NICE"),
        );
    }
}

/// Real time beyond RLIMIT_RTPRIO, deadlines, a better nice value than our own
/// beyond RLIMIT_NICE.
fn needs_privilege(sched: &SchedState) -> bool {
    let own = limits::read(std::process::id()).unwrap_or_default();
    let soft = |limit: libc::__rlimit_resource_t| own.get(limit as usize).map_or(0, |l| l.soft);
    match sched.policy as i32 {
        libc::SCHED_FIFO | libc::SCHED_RR => u64::from(sched.priority) > soft(libc::RLIMIT_RTPRIO),
        libc::SCHED_DEADLINE => true,
        _ => {
            let ours = attributes(0).map_or(0, |a| a.nice);
            let floor = 20 - soft(libc::RLIMIT_NICE).min(40) as i64;
            sched.nice < ours && i64::from(sched.nice) < floor
        }
    }
}

fn bits(mask: &[u8]) -> Vec<usize> {
    let set = |n: &usize| mask[n / 8] & (1 << (n % 8)) != 0;
    (0..mask.len() * 8).filter(set).collect()
}

/// CPUs that are online; empty where that cannot be read.
fn online_cpus() -> Vec<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    ranges(text.trim())
}

/// `0-3,8` as its numbers.
fn ranges(text: &str) -> Vec<usize> {
    text.split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse().ok()?..=last.parse::<usize>().ok()?)
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(ranges("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(ranges(""), [0usize; 0]);
        assert_eq!(bits(&[0b101, 0b1]), [0, 2, 8]);
        assert!(!online_cpus().is_empty());
    }

    #[test]
    fn a_level_without_a_class_is_none() {
        let sched = |io_priority| SchedState {
            io_priority,
            ..SchedState::default()
        };
        assert_eq!(io_priority(&sched(4)), 0);
        assert_eq!(io_priority(&sched(0x2003)), 0x2003);
    }
}
