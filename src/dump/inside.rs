//! Whether anything may be run inside a task.

use super::DumpContext;
use crate::blocker::Place;
use crate::error::DumpError;
use crate::tracer::FrozenTask;

/// Whether scripts may be run inside `task`; what forbids it is noted as
/// blockers.
pub(super) fn is_possible(
    ctx: &mut DumpContext<'_>,
    task: &mut FrozenTask,
) -> Result<bool, DumpError> {
    let obstacles = task.injection_obstacles(ctx.options.risk_seccomp);
    for obstacle in &obstacles {
        let place = match obstacle.tid() {
            Some(tid) => Place::Thread { pid: task.pid, tid },
            None => Place::Task { pid: task.pid },
        };
        ctx.block(place, obstacle.to_string(), obstacle.help());
    }
    Ok(obstacles.is_empty())
}
