//! A task's own state: what is neither memory nor descriptors. This module is
//! the list, in the order in which the kernel wants it; each resource has its
//! own.
//!
//! Every function appends system calls to a script that runs inside the
//! restored task (see `tracer::script`). Ordering requirements:
//! - setresuid clears the parent-death signal and dumpable: both come after
//!   the credentials.
//! - seccomp filters without no_new_privs, oom_score_adj, real-time priorities
//!   and locked securebits need privileges: before the credentials. (Seccomp
//!   itself is suspended by ptrace until the task is let go.)
//! - MDWE and mseal come last: nothing may be mapped executable after.
//! - timers are armed and pending signals queued at the very end.

use icecore_images::task::TaskState;
use icecore_images::thread::ThreadState;

use super::RestoreContext;
use crate::tracer::Script;

/// Notes every obstacle: CPU features, limits, privileges, kernel features.
pub(crate) fn plan(ctx: &mut RestoreContext<'_>) {
    let _ = ctx;
}

/// What the whole task has, in its leader, before its other threads exist:
/// rlimits, signal actions, oom_score_adj …
pub(crate) fn before_threads(ctx: &RestoreContext<'_>, task: &TaskState, script: &mut Script) {
    let _ = (ctx, task, script);
}

/// What a thread has, in the thread itself, with every thread of the task
/// created and memory in place: comm, scheduling, alternate stack, tid
/// address, robust list, rseq, credentials and what must follow them, seccomp.
pub(crate) fn thread(
    ctx: &RestoreContext<'_>,
    task: &TaskState,
    thread: &ThreadState,
    script: &mut Script,
) {
    let _ = (ctx, task, thread, script);
}

/// What comes last, in the leader, when every thread has its state: timers,
/// queued signals, MDWE.
pub(crate) fn last(ctx: &RestoreContext<'_>, task: &TaskState, script: &mut Script) {
    let _ = (ctx, task, script);
}
