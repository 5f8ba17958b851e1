//! Tasks: the tree, and what belongs to a task as a whole.

use std::collections::HashSet;

use super::numbers::{bits, count, ns_pids, pid, refers, signal, within};
use super::problem::{At, CheckError, Found, Object, Problem};
use super::{MAX_PID, signals, thread, timers};
use crate::checkpoint::Checkpoint;
use crate::task::{RunState, TaskState};

/// RLIM_NLIMITS.
const LIMITS: usize = 16;

pub(super) fn check(image: &Checkpoint) -> Result<(), CheckError> {
    count("tasks", image.tasks.len(), 1..=MAX_PID as usize).at(Object::Image)?;
    let mut pids = HashSet::new();
    let mut tids = HashSet::new();
    for task in &image.tasks {
        let object = Object::Task(task.pid);
        place_in_tree(task, &pids).at(object)?;
        pids.insert(task.pid);
        of_its_own(task).at(object)?;
        if !matches!(task.run, RunState::Zombie { .. }) {
            shared(image, task).at(object)?;
        }
        for one in &task.threads {
            let object = Object::Thread(one.tid);
            if !tids.insert(one.tid) {
                let (what, value) = ("thread", u64::from(one.tid));
                return Err(Problem::Order { what, value }.at(object));
            }
            thread::check(image, one).at(object)?;
        }
    }
    Ok(())
}

/// Parents come before their children, so that there is no way round in a
/// circle.
fn place_in_tree(task: &TaskState, before: &HashSet<u32>) -> Found {
    pid("pid", task.pid)?;
    if before.contains(&task.pid) {
        let (what, value) = ("task", u64::from(task.pid));
        return Err(Problem::Order { what, value });
    }
    match task.parent {
        Some(id) if !before.contains(&id) => Err(Problem::Dangling { what: "parent", id }),
        _ => Ok(()),
    }
}

fn of_its_own(task: &TaskState) -> Found {
    ns_pids("pids in namespaces", &task.ns_pids)?;
    // 0: outside the pid namespace of the dump.
    within("process group", task.pgid, 0..=MAX_PID)?;
    within("session", task.sid, 0..=MAX_PID)?;
    within("exit signal", task.exit_signal, 0..=64)?;
    let threads = match task.run {
        RunState::Running => 1..=MAX_PID as usize,
        RunState::Stopped { signal: number } => {
            signal(number)?;
            1..=MAX_PID as usize
        }
        RunState::Zombie { status } => {
            bits("wait status", status as u64, 0xffff)?;
            return count("threads of a zombie", task.threads.len(), 0..=0);
        }
    };
    count("threads", task.threads.len(), threads)?;
    signals::pending(&task.pending)?;
    timers::of_task(task)?;
    limits(task)?;
    within("oom_score_adj", task.oom_score_adj, -1000..=1000)?;
    match &task.autogroup {
        Some(group) => within("nice value of the autogroup", group.nice, -20..=19),
        None => Ok(()),
    }
}

fn limits(task: &TaskState) -> Found {
    count("resource limits", task.rlimits.len(), LIMITS..=LIMITS)?;
    match task.rlimits.iter().any(|limit| limit.soft > limit.hard) {
        true => Err(Problem::Contradiction(
            "a soft limit is above its hard limit",
        )),
        false => Ok(()),
    }
}

fn shared(image: &Checkpoint, task: &TaskState) -> Found {
    refers("address space", task.mm.0, image.mms.len())?;
    refers("descriptor table", task.fd_table.0, image.fd_tables.len())?;
    refers("fs struct", task.fs.0, image.fs.len())?;
    refers("signal actions", task.sig_hand.0, image.sig_hands.len())
}
