//! A task's own state: what is neither memory nor descriptors. This module is
//! the list, in the order in which the kernel wants it; each resource has its
//! own.
//!
//! Every function appends system calls to a script that runs inside the
//! restored task (see `tracer::script`). Ordering requirements:
//! - hard limits are raised, oom_score_adj is set, scheduling and alarm timers
//!   are arranged before the credentials: they need privileges;
//! - no_new_privs comes before seccomp filters, which then need none. (Seccomp
//!   itself is suspended by ptrace until the task is let go.)
//! - setresuid clears the parent-death signal and dumpable: both come after
//!   the credentials;
//! - all signals are blocked before any is queued, in the leader, of which the
//!   other threads have it;
//! - signal actions come before any signal is queued: an action that ignores a
//!   signal throws queued ones away;
//! - queued signals come before timers, whose signals merge with them;
//! - MDWE and seals come when nothing is left to be mapped;
//! - limits come last: they could hinder everything else.

use icecore_images::mm::MmState;
use icecore_images::signals::SigAction;
use icecore_images::task::TaskState;
use icecore_images::thread::ThreadState;
use icecore_images::timers::ClockState;

use super::child::Child;
use super::{
    RestoreContext, cpu, creds, limits, memory, outside, prctl, sched, seccomp, signals, timers,
};
use crate::blocker::Place;
use crate::error::RestoreError;
use crate::kernel;
use crate::tracer::Script;

/// Notes every obstacle: CPU features, limits, privileges, kernel features.
pub(crate) fn plan(ctx: &mut RestoreContext<'_>) {
    cpu::plan(ctx);
    seccomp::plan(ctx);
    let image = ctx.image;
    for task in &image.tasks {
        limits::plan(ctx, task);
        timers::plan(ctx, task);
        prctl::plan(ctx, task);
        outside::plan(ctx, task);
        plan_threads(ctx, task);
    }
}

/// Threads have mostly the same: what several have is noted for the first.
fn plan_threads(ctx: &mut RestoreContext<'_>, task: &TaskState) {
    let (mut creds_seen, mut sched_seen) = (Vec::new(), Vec::new());
    for thread in &task.threads {
        let place = Place::Thread {
            pid: task.pid,
            tid: thread.tid,
        };
        if !creds_seen.contains(&&thread.creds) {
            creds::plan(ctx, &place, &thread.creds);
            creds_seen.push(&thread.creds);
        }
        if !sched_seen.contains(&&thread.sched) {
            sched::plan(ctx, &place, &thread.sched);
            sched_seen.push(&thread.sched);
        }
    }
}

/// What is done to the new process while it still is what icecore is: files of
/// /proc.
pub(crate) fn from_outside(
    ctx: &mut RestoreContext<'_>,
    task: &TaskState,
    child: &mut Child,
) -> Result<(), RestoreError> {
    outside::restore(ctx, task, child)
}

/// What the whole task has, in its leader, before its other threads exist:
/// open limits, prctl state. All signals are blocked.
pub(crate) fn before_threads(task: &TaskState, script: &mut Script) {
    let own = kernel::limits::read(std::process::id()).unwrap_or_default();
    limits::open(&own, &task.rlimits, script);
    prctl::task(&task.controls, script);
    signals::block_all(script);
}

/// Signal actions, once for all tasks that share them.
pub(crate) fn actions_of(ctx: &RestoreContext<'_>, task: &TaskState, script: &mut Script) {
    signals::actions(actions(ctx, task), script);
}

/// What a thread has, in the thread itself, with every thread of the task
/// created and memory in place: comm, scheduling, alternate stack, tid
/// address, robust list, rseq, credentials and what must follow them, seccomp.
/// The leader is the last to run it.
pub(crate) fn thread(
    ctx: &RestoreContext<'_>,
    task: &TaskState,
    thread: &ThreadState,
    script: &mut Script,
) {
    let leader = thread.tid == task.pid;
    prctl::registrations(thread, script);
    signals::alt_stack(&thread.alt_stack, script);
    prctl::thread(&thread.controls, script);
    sched::restore(&thread.sched, script);
    if leader {
        timers::create(ctx, task, script);
    }
    creds::no_new_privs(&thread.creds, script);
    seccomp::restore(&ctx.image.seccomp_filters, thread, script);
    // The plan has seen to it that they can be read.
    let own = kernel::capability::own().unwrap_or_default();
    creds::restore(&own, &thread.creds, script);
    prctl::parent_death_signal(&thread.controls, script);
    if !leader {
        signals::queue(task.pid, thread.tid, &thread.pending, script);
    }
}

/// What comes last, in the leader, when every thread has its state: queued
/// signals, timers, what seals the address space, limits.
pub(crate) fn last(ctx: &RestoreContext<'_>, task: &TaskState, script: &mut Script) {
    let pid = ctx.id_now(task.pid);
    if let Some(leader) = task.threads.iter().find(|t| t.tid == task.pid) {
        signals::queue(pid, pid, &leader.pending, script);
    }
    signals::queue_shared(pid, &task.pending, script);
    timers::arm(task, &clocks(ctx), script);
    if let Some(mm) = mm(ctx, task) {
        prctl::dumpable(&mm.controls, script);
        memory::last(mm, script);
    }
    limits::settle(&task.rlimits, script);
}

fn actions<'a>(ctx: &'a RestoreContext<'_>, task: &TaskState) -> &'a [SigAction] {
    let hands = ctx.image.sig_hands.iter().find(|h| h.id == task.sig_hand);
    hands.map_or(&[], |h| &h.actions)
}

fn mm<'a>(ctx: &'a RestoreContext<'_>, task: &TaskState) -> Option<&'a MmState> {
    ctx.image.mms.iter().find(|mm| mm.id == task.mm)
}

/// Clocks as the restored task sees them: the wall clock is this machine's.
fn clocks(ctx: &RestoreContext<'_>) -> ClockState {
    let here = kernel::clock::read();
    match ctx.options.clock_from_dump {
        true => ClockState {
            realtime_ns: here.realtime_ns,
            ..ctx.image.clocks
        },
        false => here,
    }
}
