//! Creating a process to restore a task into.

use std::os::fd::AsFd;

use icecore_images::seccomp::SeccompState;
use icecore_images::task::TaskState;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::RestoreContext;
use super::child::Child;
use crate::error::RestoreError;
use crate::kernel::clone3::{CloneArgs, Gate, spawn_waiting};
use crate::options::PidPolicy;
use crate::tracer::remote::{Remote, kill_and_reap};

/// Creates a process, a copy of this one, and takes it over: it dies with us
/// from its first moment on, at a closed pipe first and then through ptrace.
/// All its signals are blocked, as the calling thread's are. `flags` are
/// CLONE_NEWPID and CLONE_NEWNS, or none.
///
/// One that is to be on its own is made by a helper and never is a child of
/// ours: we leave no zombie to our caller. The helper ignores SIGCHLD and stays
/// until the task is let go, so that one that fails leaves no zombie to init
/// either; where the task asks for a parent-death signal it ends before that.
pub(crate) fn spawn(
    ctx: &RestoreContext<'_>,
    pid: u32,
    set_tid: Option<u32>,
    flags: u64,
) -> Result<Child, RestoreError> {
    if ctx.options.sibling {
        // It inherits our own exit signal: CLONE_PARENT wants 0.
        return spawn_here(ctx, pid, set_tid, flags | libc::CLONE_PARENT as u64, 0);
    }
    let exit_signal = libc::SIGCHLD as u64;
    if !ctx.options.detached {
        return spawn_here(ctx, pid, set_tid, flags, exit_signal);
    }
    let mut helper = spawn_here(ctx, pid, None, 0, exit_signal)?;
    let args = CloneArgs {
        flags,
        exit_signal,
        ..CloneArgs::default()
    };
    helper.set_action(libc::SIGCHLD as u32, libc::SIG_IGN as u64)?;
    let scratch = helper.scratch();
    let remote = helper.create("create the process", scratch, set_tid, args)?;
    let child = Child::new(pid, remote)?;
    match super::has_parent_death_signal(ctx.image) {
        true => Ok(child),
        false => Ok(child.keep(helper)),
    }
}

/// A process of ours that ends when it is dropped.
pub(crate) fn helper(ctx: &RestoreContext<'_>) -> Result<Child, RestoreError> {
    spawn_here(ctx, 0, None, 0, libc::SIGCHLD as u64)
}

fn spawn_here(
    ctx: &RestoreContext<'_>,
    pid: u32,
    set_tid: Option<u32>,
    flags: u64,
    exit_signal: u64,
) -> Result<Child, RestoreError> {
    let failed = |source| RestoreError::Spawn { pid, source };
    let (wait, keep) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    let gate = Gate {
        wait: wait.as_fd(),
        keep: keep.as_fd(),
    };
    let created = spawn_waiting(flags, exit_signal, set_tid, gate).map_err(failed)?;
    let seized = Remote::seize(created, suspends_seccomp(ctx));
    let remote = seized.map_err(|source| {
        kill_and_reap(created);
        RestoreError::Remote {
            pid,
            what: "take the new process over".to_owned(),
            source,
        }
    })?;
    Child::new(pid, remote)
}

/// Filters must not apply to what is still to be done once they are installed.
/// Needs CAP_SYS_ADMIN, so it is asked for only where it matters.
fn suspends_seccomp(ctx: &RestoreContext<'_>) -> bool {
    let mut threads = ctx.image.tasks.iter().flat_map(|task| &task.threads);
    threads.any(|thread| thread.seccomp != SeccompState::Off)
}

/// The task's root process where no namespace is wanted.
pub(crate) fn task(ctx: &RestoreContext<'_>, task: &TaskState) -> Result<Child, RestoreError> {
    let set_tid = (ctx.options.pids == PidPolicy::Same).then_some(task.pid);
    let child = spawn(ctx, task.pid, set_tid, 0)?;
    match set_tid {
        Some(pid) if child.process.pid != pid => Err(RestoreError::Spawn {
            pid,
            source: Errno::SRCH,
        }),
        _ => Ok(child),
    }
}

/// Says aloud that a task stays in the restorer's session.
pub(crate) fn tell_of_session(ctx: &mut RestoreContext<'_>, task: &TaskState) {
    if task.sid == task.pid || ctx.options.shell_job {
        return;
    }
    let (pid, sid) = (task.pid, task.sid);
    ctx.note(format!(
        "pid {pid} was in session {sid}, which is not in the image: it is in the restorer's now"
    ));
}
