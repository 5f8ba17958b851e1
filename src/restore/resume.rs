//! The last steps: final registers, away with the restorer, and the task is on
//! its own.

use std::io;
use std::time::{Duration, Instant};

use icecore_images::mm::MmState;
use icecore_images::task::{RunState, TaskState};
use icecore_images::thread::{Registers, ThreadState};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::RestoreContext;
use super::child::{Child, Process};
use super::forest::{Forest, Living};
use super::rebuild::First;
use super::sleep;
use super::threads::{Thread, leader_has_exited};
use super::xstate;
use crate::error::RestoreError;
use crate::kernel::stat;
use crate::tracer::peek;
use crate::tracer::ptrace::TraceError;
use crate::tracer::remote::Remote;
use crate::tracer::{Guardian, Undo};

/// Makes every task ready to go: each thread has its final registers.
///
/// Who shares an address space leaves the restorer before the one that unmaps
/// it, the first in the image.
pub(super) fn finish_all(
    ctx: &RestoreContext<'_>,
    forest: &mut Forest<'_>,
) -> Result<(), RestoreError> {
    let first = First::of(ctx, forest);
    for &node in first.order().iter().rev() {
        let task = &ctx.image.tasks[node];
        let mm = ctx.image.mms.get(task.mm.0 as usize);
        let mm = mm.ok_or_else(|| super::missing(task.pid, "its address space"))?;
        let unmaps = first.of_memory(task) == Some(node);
        finish(task, mm, forest.living(node)?, unmaps)?;
    }
    let root = ctx.image.tasks.first().map_or(0, |task| task.pid);
    match forest.init_mut() {
        Some(init) => init.prepare(root),
        None => Ok(()),
    }
}

/// Puts the final registers into every thread and unmaps the restorer, or only
/// leaves it.
///
/// Ordering requirements:
/// - interrupted calls are issued again while the restorer is there to hold
///   their time-outs;
/// - the other threads stand still outside of the restorer before it goes;
/// - raw registers that restart a call are put back where no call is under way
///   any more.
pub(super) fn finish(
    task: &TaskState,
    mm: &MmState,
    living: &mut Living<'_>,
    unmaps: bool,
) -> Result<(), RestoreError> {
    let child = &mut living.child;
    for Thread { remote, state } in &mut living.threads {
        let registers = sleep::reissue(&child.process, mm, remote, state)?;
        park(&child.process, remote, state, &registers)?;
    }
    let leader = &task.threads[0];
    let exits = leader_has_exited(task);
    let registers = match exits {
        true => None,
        false => Some(sleep::reissue(
            &child.process,
            mm,
            &mut child.leader,
            leader,
        )?),
    };
    match unmaps {
        true => child.move_out()?,
        false => drop(child.leave()?),
    }
    if let Some(registers) = registers {
        park(&child.process, &mut child.leader, leader, &registers)?;
    }
    living.leader_exits = exits.then_some(leader.signal_mask);
    Ok(())
}

/// Stands the thread still with its final registers.
fn park(
    process: &Process,
    remote: &mut Remote,
    state: &ThreadState,
    registers: &Registers,
) -> Result<(), RestoreError> {
    let tid = state.tid;
    process.fault("set the registers")?;
    let failed = |what: &str| process.remote(&format!("{what} of thread {tid}"));
    let refused = |what: &str| {
        let step = process.step(&format!("{what} of thread {tid}"));
        |e: io::Error| step(Errno::from_io_error(&e).unwrap_or(Errno::IO))
    };
    remote.come_to_rest().map_err(failed("come to the end"))?;
    let of_our_cpu = peek::xstate(remote.tid()).map_err(refused("read the extended state"))?;
    let area = xstate::convert(&state.xstate, &of_our_cpu).map_err(|problem| {
        let what = format!("set the extended state of thread {tid}: {problem}");
        process.step(&what)(Errno::OPNOTSUPP)
    })?;
    if let Some(config) = &state.syscall_user_dispatch {
        let set = peek::set_syscall_user_dispatch(remote.tid(), config);
        set.map_err(refused("set syscall user dispatch"))?;
    }
    let thread = remote.thread();
    let set = |what, result: Result<(), TraceError>| result.map_err(|e| failed(what)(e.into()));
    set("set the extended state", thread.set_xstate(&area))?;
    set("set the registers", thread.set_registers(registers))?;
    set(
        "set the signal mask",
        thread.set_signal_mask(state.signal_mask),
    )
}

/// Lets the tree go. From the moment no thread dies with us any more it is
/// restored, whatever becomes of us. A task is left stopped if it had been, or
/// all are if that is wanted.
pub(super) fn let_go(ctx: &RestoreContext<'_>, forest: Forest<'_>) -> Result<(), RestoreError> {
    let mut stopped = Vec::new();
    for living in forest.all() {
        let process = &living.child.process;
        let mut tasks = ctx.image.tasks.iter();
        let task = tasks.find(|task| task.pid == process.image_pid);
        let was_stopped = task.is_some_and(|t| matches!(t.run, RunState::Stopped { .. }));
        if ctx.options.leave_stopped || was_stopped {
            stop(&living.child)?;
            stopped.push(process.pid);
        }
    }
    spare_all(&forest)?;
    let (all, init) = forest.into_parts();
    // Whatever becomes of any: somebody may have killed one.
    let released = all.into_iter().map(release);
    let mut result = released.fold(Ok(()), Result::and);
    if let Some(init) = init {
        result = result.and(init.release());
    }
    stopped.into_iter().for_each(wait_until_stopped);
    result
}

/// Has all live on if we die: all or, if we die in the middle of it, none. The
/// init comes last, with which the whole namespace would go; where there is none,
/// a guardian would end who was spared.
fn spare_all(forest: &Forest<'_>) -> Result<(), RestoreError> {
    let refused = |source| RestoreError::Rebuild {
        what: "a guardian for the moment in which the tasks are let go".to_owned(),
        source,
    };
    let mut guardian = None;
    if forest.init().is_none() && forest.all().nth(1).is_some() {
        let mut watch = Guardian::spawn().map_err(refused)?;
        for living in forest.all() {
            let pid = living.child.process.pid;
            watch.undo_later(&Undo::Kill { pid }).map_err(refused)?;
        }
        guardian = Some(watch);
    }
    forest.all().try_for_each(spare)?;
    if let Some(init) = forest.init() {
        init.spare()?;
    }
    match guardian {
        Some(watch) => watch.dismiss().map_err(refused),
        None => Ok(()),
    }
}

fn spare(living: &Living<'_>) -> Result<(), RestoreError> {
    let threads = living.threads.iter().map(|thread| &thread.remote);
    for thread in threads.chain([&living.child.leader]) {
        let spared = thread.spare();
        spared.map_err(living.child.process.remote("let the task go"))?;
    }
    Ok(())
}

fn release(living: Living<'_>) -> Result<(), RestoreError> {
    let failed = living.child.process.remote("let the task go");
    let released = living.child.release(living.leader_exits);
    let threads = living.threads.into_iter();
    let detached = threads.map(|thread| thread.remote.detach());
    detached.fold(released, Result::and).map_err(failed)
}

/// Lets a single task go.
#[cfg(test)]
pub(super) fn let_one_go(living: Living<'_>, stopped: bool) -> Result<(), RestoreError> {
    let pid = living.child.process.pid;
    if stopped {
        stop(&living.child)?;
    }
    spare(&living)?;
    release(living)?;
    if stopped {
        wait_until_stopped(pid);
    }
    Ok(())
}

/// Stops the task as soon as it is let go.
fn stop(child: &Child) -> Result<(), RestoreError> {
    let pid = Pid::from_raw(child.process.pid as i32).ok_or(rustix::io::Errno::SRCH);
    pid.and_then(|pid| kill_process(pid, Signal::STOP))
        .map_err(child.process.step("stop the task"))
}

/// The kernel stops the threads as they come by; this is over at once unless
/// the machine is very busy, and nothing depends on it.
fn wait_until_stopped(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        match stat::Stat::read(pid) {
            Ok(stat) if stat.state != b'T' => std::thread::sleep(Duration::from_micros(100)),
            _ => return,
        }
    }
}
