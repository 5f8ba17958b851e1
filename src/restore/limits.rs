//! Resource limits and oom_score_adj.
//!
//! Hard limits are raised early, while there may be privileges to do so, and
//! everything is set open; the real limits come when nothing is left to be
//! done that they could hinder (queueing signals under RLIMIT_SIGPENDING,
//! creating timers and threads).

use icecore_images::limits::Rlimit;
use icecore_images::task::TaskState;

use super::RestoreContext;
use crate::blocker::Place;
use crate::kernel::capability::{self, CAP_SYS_RESOURCE};
use crate::kernel::limits;
use crate::tracer::{Script, args};

/// Opens all limits as far as icecore's own and the task's reach.
pub(super) fn open(own: &[Rlimit], then: &[Rlimit], script: &mut Script) {
    for (number, (own, then)) in own.iter().zip(then).enumerate() {
        let hard = own.hard.max(then.hard);
        let both = Rlimit { soft: hard, hard };
        if both != *own {
            set(script, number, &both);
        }
    }
}

/// Sets the limits to what they were.
pub(super) fn settle(then: &[Rlimit], script: &mut Script) {
    for (number, limit) in then.iter().enumerate() {
        set(script, number, limit);
    }
}

fn set(script: &mut Script, number: usize, limit: &Rlimit) {
    let mut rlimit = limit.soft.to_le_bytes().to_vec();
    rlimit.extend(limit.hard.to_le_bytes());
    let rlimit = script.bytes(&rlimit);
    let name = limits::NAMES
        .get(number)
        .copied()
        .unwrap_or("an unknown limit");
    let what = format!("set the limit \"{name}\"");
    script.call(
        what,
        libc::SYS_prlimit64 as u32,
        args![0, number, rlimit, 0],
    );
}

/// Notes hard limits above icecore's own where it may not raise them.
pub(super) fn plan(ctx: &mut RestoreContext<'_>, task: &TaskState) {
    let place = Place::Task { pid: task.pid };
    let Ok(own) = limits::read(std::process::id()) else {
        let problem = "icecore cannot read its own limits from /proc/self/limits";
        ctx.obstacle(Place::Machine, problem.to_owned(), None);
        return;
    };
    let may_raise = capability::have(CAP_SYS_RESOURCE);
    for ((name, own), then) in limits::NAMES.iter().zip(&own).zip(&task.rlimits) {
        if then.hard > own.hard && !may_raise {
            let problem = format!(
                "its hard limit \"{name}\" is {}, icecore's own is {}",
                shown(then.hard),
                shown(own.hard)
            );
            let help = "run icecore with CAP_SYS_RESOURCE, or start it under a higher limit";
            ctx.obstacle(place.clone(), problem, Some(help));
        }
    }
}

fn shown(limit: u64) -> String {
    match limit {
        u64::MAX => "unlimited".to_owned(),
        n => n.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_open_only_where_they_have_to() {
        let limit = |soft, hard| Rlimit { soft, hard };
        let own = [limit(10, 10), limit(5, 10), limit(10, 10)];
        let then = [limit(1, 2), limit(1, 2), limit(3, 20)];
        let mut script = Script::new();
        open(&own, &then, &mut script);
        assert_eq!(script.call_count(), 2);
        settle(&then, &mut script);
        assert_eq!(script.call_count(), 5);
    }
}
