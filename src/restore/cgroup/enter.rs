//! Moving tasks and threads to where they were.

use std::os::fd::AsRawFd;

use icecore_images::cgroup::CgroupSet;
use icecore_images::task::TaskState;
use icecore_images::thread::ThreadState;

use super::Spot;
use super::set::write;
use crate::error::RestoreError;
use crate::restore::RestoreContext;
use crate::restore::child::Child;
use crate::restore::threads::Thread;

/// Moves a process that has one thread yet, and nothing of the task's memory.
pub(in crate::restore) fn enter(
    ctx: &RestoreContext<'_>,
    task: &TaskState,
    child: &mut Child,
) -> Result<(), RestoreError> {
    let set = task.threads.first().and_then(|thread| set(ctx, thread));
    let (Some(made), Some(set)) = (&ctx.made_cgroups, set) else {
        return Ok(());
    };
    for spot in &ctx.cgroups {
        if let Some(path) = set.paths.get(spot.at) {
            move_to(spot, &path.0, "cgroup.procs", child.process.pid)?;
        }
    }
    let namespace = set
        .namespace
        .and_then(|at| made.namespaces.get(at as usize));
    if let Some(namespace) = namespace {
        // Inherited: it has the same number in the new process.
        let args = [namespace.as_raw_fd() as u64, libc::CLONE_NEWCGROUP as u64];
        child.syscall("join its cgroup namespace", libc::SYS_setns, &args)?;
    }
    Ok(())
}

/// Moves those threads that are elsewhere than the first.
pub(in crate::restore) fn place_threads(
    ctx: &RestoreContext<'_>,
    task: &TaskState,
    threads: &[Thread<'_>],
) -> Result<(), RestoreError> {
    let first = task.threads.first().and_then(|thread| set(ctx, thread));
    let Some(first) = first else {
        return Ok(());
    };
    for thread in threads {
        let Some(set) = set(ctx, thread.state) else {
            continue;
        };
        for spot in &ctx.cgroups {
            let (here, there) = (set.paths.get(spot.at), first.paths.get(spot.at));
            if let Some(path) = here.filter(|_| here != there) {
                let file = match spot.unified() {
                    true => "cgroup.threads",
                    false => "tasks",
                };
                move_to(spot, &path.0, file, thread.remote.tid())?;
            }
        }
    }
    Ok(())
}

fn set<'a>(ctx: &RestoreContext<'a>, thread: &ThreadState) -> Option<&'a CgroupSet> {
    let sets = &ctx.image.cgroups.sets;
    thread.cgroups.and_then(|id| sets.get(id.0 as usize))
}

/// Moves a process, or one of its threads, to the cgroup that was `path`.
pub(super) fn move_to(
    spot: &Spot<'_>,
    path: &[u8],
    file: &str,
    id: u32,
) -> Result<(), RestoreError> {
    let file = spot.dir(path).join(file);
    let moved = write(&file, id.to_string().as_bytes());
    moved.map_err(|source| RestoreError::Rebuild {
        what: format!("enter cgroup {}", spot.label(path)),
        source,
    })
}
