//! Which pids the restored tasks get, and whether they are free.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use icecore_images::Checkpoint;
use icecore_images::task::TaskState;
use icecore_images::timers::TimerNotify;
use rustix::thread::CapabilitySet;

use super::RestoreContext;
use crate::blocker::Place;
use crate::kernel::stat::Stat;
use crate::kernel::status::Status;
use crate::options::PidPolicy;

/// Pids for processes that are there for a while: none that a task of the image
/// has, from the highest on.
#[derive(Debug)]
pub(crate) struct Spare {
    wanted: BTreeSet<u32>,
    next: u32,
}

impl Spare {
    /// For an image.
    pub(crate) fn of(image: &Checkpoint) -> Self {
        let ids = |task: &TaskState| tids(task).chain([task.sid, task.pgid]);
        Self {
            wanted: image.tasks.iter().flat_map(ids).collect(),
            next: pid_max().min(DEFAULT_PID_MAX),
        }
    }
}

impl Iterator for Spare {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        while self.next > 1 {
            self.next -= 1;
            let taken = fs::exists(format!("/proc/{}", self.next)).unwrap_or(true);
            if !taken && !self.wanted.contains(&self.next) {
                return Some(self.next);
            }
        }
        None
    }
}

/// Notes what keeps the tasks from getting their pids.
pub(super) fn plan(ctx: &mut RestoreContext<'_>) {
    match ctx.options.pids {
        PidPolicy::Same => plan_same(ctx),
        PidPolicy::New => plan_new(ctx),
        PidPolicy::Namespace => plan_namespace(ctx),
    }
}

fn plan_same(ctx: &mut RestoreContext<'_>) {
    need_set_tid(ctx);
    let tasks = &ctx.image.tasks;
    let borrowed = ctx.tree.borrowed_ids(tasks.len());
    let wanted: BTreeSet<u32> = tasks.iter().flat_map(tids).chain(borrowed).collect();
    let limit = pid_max();
    for &tid in wanted.iter().filter(|&&tid| tid >= limit) {
        let problem = format!("pid {tid} is not below this machine's limit of {limit}");
        let help = "raise /proc/sys/kernel/pid_max";
        ctx.obstacle(Place::Machine, problem, Some(help));
    }
    for (tid, owner) in taken(&wanted) {
        let problem = format!("is taken by {owner}");
        let help = match tasks.len() {
            1 => "wait until it is free, or restore with `--pids ns` or `--pids new`",
            _ => "wait until it is free, or restore with `--pids ns`",
        };
        ctx.obstacle(Place::Task { pid: tid }, problem, Some(help));
    }
}

fn plan_new(ctx: &mut RestoreContext<'_>) {
    let image = ctx.image;
    if let [root, _, ..] = image.tasks.as_slice() {
        let problem = format!(
            "its tree of {} processes cannot live under new pids: they know each other by them",
            image.tasks.len()
        );
        let help = "restore with `--pids same` or `--pids ns`";
        ctx.obstacle(Place::Task { pid: root.pid }, problem, Some(help));
        return;
    }
    for task in &image.tasks {
        for reason in reasons_against_new(task) {
            let problem = format!("cannot live under a new pid: {reason}");
            let help = "restore with `--pids same` or `--pids ns`";
            ctx.obstacle(Place::Task { pid: task.pid }, problem, Some(help));
        }
    }
}

/// Why a task would notice that its pid has changed, as far as its state
/// shows; what only its memory shows is checked by [`super::new_pid`].
fn reasons_against_new(task: &TaskState) -> Vec<String> {
    let mut reasons = Vec::new();
    if task.threads.len() != 1 || task.threads[0].tid != task.pid {
        reasons.push(format!(
            "it has {} threads, which know each other by their ids",
            task.threads.len()
        ));
    }
    for timer in &task.posix_timers {
        if matches!(timer.notify, TimerNotify::Thread { .. }) {
            reasons.push(format!("timer {} signals a thread by its id", timer.id));
        }
    }
    reasons
}

fn plan_namespace(ctx: &mut RestoreContext<'_>) {
    if !ctx.has_capability(CapabilitySet::SYS_ADMIN) {
        let problem = "CAP_SYS_ADMIN is missing: pid and mount namespaces need it".to_owned();
        ctx.obstacle(Place::Machine, problem, Some("run as root"));
    }
    let limit = pid_max();
    let image = ctx.image;
    for tid in image.tasks.iter().flat_map(tids) {
        if tid == 1 {
            let problem = "pid 1 of a pid namespace is icecore's own init".to_owned();
            ctx.obstacle(Place::Task { pid: tid }, problem, Some("use `--pids new`"));
        } else if tid >= limit {
            let problem = format!("pid {tid} is not below this machine's limit of {limit}");
            let help = "raise /proc/sys/kernel/pid_max";
            ctx.obstacle(Place::Machine, problem, Some(help));
        }
    }
}

fn need_set_tid(ctx: &mut RestoreContext<'_>) {
    if ctx.has_capability(CapabilitySet::SYS_ADMIN)
        || ctx.has_capability(CapabilitySet::CHECKPOINT_RESTORE)
    {
        return;
    }
    let problem = "CAP_CHECKPOINT_RESTORE is missing: choosing a pid needs it".to_owned();
    let help = "run as root, or with `--pids new` where the task allows it";
    ctx.obstacle(Place::Machine, problem, Some(help));
}

/// Every id a task needs: its threads' and, where its leader has exited, its
/// own.
pub(crate) fn tids(task: &TaskState) -> impl Iterator<Item = u32> + use<> {
    let mut all: BTreeSet<u32> = task.threads.iter().map(|t| t.tid).collect();
    all.insert(task.pid);
    all.into_iter()
}

/// Where the kernel begins anew by default.
const DEFAULT_PID_MAX: u32 = 32768;

fn pid_max() -> u32 {
    let limit = procfs::sys::kernel::pid_max().ok();
    limit.map_or(u32::MAX, i32::cast_unsigned)
}

/// Which of `wanted` are taken, and by whom: as a thread, or only as the id of
/// a process group or session that outlives its leader.
pub(crate) fn taken(wanted: &BTreeSet<u32>) -> BTreeMap<u32, String> {
    let mut found = BTreeMap::new();
    for &tid in wanted {
        if let Some(owner) = thread_owner(tid, wanted) {
            found.insert(tid, owner);
        }
    }
    let Ok(entries) = fs::read_dir("/proc") else {
        return found;
    };
    let pids = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str().and_then(|n| n.parse().ok()));
    for pid in pids {
        let Ok(stat) = Stat::read(pid) else {
            continue; // it has just ended
        };
        for (id, role) in [(stat.pgid, "process group"), (stat.sid, "session")] {
            if wanted.contains(&id) {
                found
                    .entry(id)
                    .or_insert_with(|| format!("the {role} of {}", name(pid)));
            }
        }
    }
    found
}

/// The owner of a thread id that exists (zombies included). A thread of a
/// process that is `wanted` itself goes with that.
fn thread_owner(tid: u32, wanted: &BTreeSet<u32>) -> Option<String> {
    let tgid = Status::read(tid).ok()?.tgid;
    if tgid != tid && wanted.contains(&tgid) {
        return None;
    }
    Some(if tgid == tid {
        format!("another process ({})", comm(tid))
    } else {
        format!("a thread of {}", name(tgid))
    })
}

fn name(pid: u32) -> String {
    format!("pid {pid} ({})", comm(pid))
}

fn comm(pid: u32) -> String {
    let comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(comm.trim_ascii_end()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_pid_is_taken_and_named() {
        let me = std::process::id();
        let found = taken(&BTreeSet::from([me]));
        assert!(found[&me].starts_with("another process ("), "{found:?}");
    }

    #[test]
    fn a_thread_is_named_with_its_process() {
        let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let found = taken(&BTreeSet::from([tid]));
        let process = format!("pid {} (", std::process::id());
        assert!(found[&tid].contains(&process), "{found:?}");
    }
}
