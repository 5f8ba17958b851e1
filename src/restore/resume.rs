//! The last steps: final registers, away with the restorer, and the task is on
//! its own.

use std::io;
use std::time::{Duration, Instant};

use icecore_images::mm::MmState;
use icecore_images::task::{RunState, TaskState};
use icecore_images::thread::{Registers, ThreadState};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::child::{Child, Process};
use super::namespace::Init;
use super::sleep;
use super::threads::{Thread, leader_has_exited};
use super::xstate;
use crate::error::RestoreError;
use crate::kernel::stat;
use crate::tracer::peek;
use crate::tracer::ptrace::TraceError;
use crate::tracer::remote::Remote;

/// A task ready to go: every thread has its final registers.
#[derive(Debug)]
pub(crate) struct Ready {
    child: Child,
    threads: Vec<Remote>,
    /// The signal mask that a leader shows which had exited.
    leader_exits: Option<u64>,
    /// After `child`: its end waits for the child's.
    init: Option<Init>,
}

/// Puts the final registers into every thread and unmaps the restorer.
///
/// Ordering requirements:
/// - interrupted calls are issued again while the restorer is there to hold
///   their time-outs;
/// - the other threads stand still outside of the restorer before it goes;
/// - raw registers that restart a call are put back where no call is under way
///   any more.
///
/// (`init` is declared before `child`, so that on an error it is dropped after
/// it: the end of an init waits for its tree's.)
pub(crate) fn finish(
    task: &TaskState,
    mm: &MmState,
    mut init: Option<Init>,
    mut child: Child,
    threads: Vec<Thread<'_>>,
) -> Result<Ready, RestoreError> {
    let mut parked = Vec::new();
    for Thread { mut remote, state } in threads {
        let registers = sleep::reissue(&child.process, mm, &mut remote, state)?;
        park(&child.process, &mut remote, state, &registers)?;
        parked.push(remote);
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
    child.move_out()?;
    if let Some(registers) = registers {
        park(&child.process, &mut child.leader, leader, &registers)?;
    }
    if let Some(init) = &mut init {
        init.prepare(task.pid)?;
    }
    Ok(Ready {
        child,
        threads: parked,
        leader_exits: exits.then_some(leader.signal_mask),
        init,
    })
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

impl Ready {
    /// Pid of the task as this process sees it.
    pub(crate) fn pid(&self) -> u32 {
        self.child.process.pid
    }

    /// The process whose end stands for the task's: itself, or the init of its
    /// namespace.
    pub(crate) fn awaited(&self) -> u32 {
        self.init.as_ref().map_or(self.pid(), Init::pid)
    }

    /// Lets the task go. From the moment no thread dies with us any more it is
    /// restored, whatever becomes of us. It is left stopped if it had been, or if
    /// `stopped` is wanted.
    pub(crate) fn let_go(self, task: &TaskState, stopped: bool) -> Result<u32, RestoreError> {
        // The init first, so that on an error it is dropped last.
        let Ready {
            init,
            child,
            threads,
            leader_exits,
        } = self;
        let pid = child.process.pid;
        let stopped = stopped || matches!(task.run, RunState::Stopped { .. });
        if stopped {
            stop(&child)?;
        }
        let failed = |source| RestoreError::Remote {
            pid: task.pid,
            what: "let the task go".to_owned(),
            source,
        };
        if let Some(init) = &init {
            init.spare()?;
        }
        for thread in threads.iter().chain([&child.leader]) {
            thread.spare().map_err(failed)?;
        }
        child.release(leader_exits).map_err(failed)?;
        for thread in threads {
            thread.detach().map_err(failed)?;
        }
        if let Some(init) = init {
            init.release()?;
        }
        if stopped {
            wait_until_stopped(pid);
        }
        Ok(pid)
    }
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
