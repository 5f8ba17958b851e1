//! A task's own state: what is neither memory nor descriptors. This module is
//! the list; each resource has its own.
//!
//! As much as possible is read from outside: what runs inside the task has to
//! pass its seccomp filters. Ordering requirements:
//! - threads are asked before the task, so that as little time as possible
//!   passes between reading timers and reading the queues of signals;
//! - timers are read between two readings of the queues, and again if one of
//!   them fired in between.

use std::collections::BTreeMap;
use std::io;

use icecore_images::ids::{FdTableId, FsId, MmId, SigHandId};
use icecore_images::prctl::ThreadControls;
use icecore_images::signals::{PendingSignal, SigAltStack, SigHandState};
use icecore_images::task::{CpuTime, RunState, TaskState};
use icecore_images::thread::{RobustList, ThreadState};
use icecore_images::timers::ClockState;

use super::kin::Sharing;
use super::{DumpContext, cgroup, creds, limits, namespaces, prctl, refused, sched, seccomp};
use super::{signals, timers, xstate};
use crate::blocker::Place;
use crate::error::DumpError;
use crate::kernel::proc_timers::{self, ProcTimer};
use crate::kernel::sched::robust_list;
use crate::kernel::stat::Stat;
use crate::kernel::status::Status;
use crate::tracer::{FrozenTask, FrozenThread, Script, interrupted, peek};

/// Readings of the timers until no signal comes in between.
const TIMER_READINGS: usize = 10;

/// What the other rooms have found for a task, referred to by its state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shared {
    pub(crate) mm: MmId,
    pub(crate) fd_table: FdTableId,
    pub(crate) fs: FsId,
    pub(crate) sig_hand: SigHandId,
}

impl Shared {
    /// What the task with this index has.
    pub(super) fn of(sharing: &Sharing, index: usize) -> Self {
        Self {
            mm: MmId(sharing.mms[index].id),
            fd_table: FdTableId(sharing.fd_tables[index].id),
            fs: FsId(sharing.fs[index].id),
            sig_hand: SigHandId(sharing.sig_hands[index].id),
        }
    }
}

/// Gathers what can be seen from outside, and every blocker, without running
/// anything inside the task.
pub(crate) fn collect(
    ctx: &mut DumpContext<'_>,
    task: &FrozenTask,
    shared: Shared,
) -> Result<TaskState, DumpError> {
    let pid = task.pid;
    let tids: Vec<u32> = task.threads.iter().map(|t| t.tid).collect();
    let Some(&tid) = tids.first() else {
        return Err(DumpError::NoSuchTask { pid });
    };
    let read = |what: &str| {
        let what = what.to_owned();
        move |source| DumpError::Read { pid, what, source }
    };
    let stat = Stat::read(tid).map_err(read("its stat"))?;
    let status = Status::read(tid).map_err(read("its status"))?;
    let inner_pid = status.ns_tgids.last().copied().unwrap_or(pid);
    namespaces::check(ctx, pid, tid, inner_pid).map_err(read("its namespaces"))?;
    refused::check_task(ctx, pid, tid).map_err(read("what it uses"))?;

    let sig_hand = shared.sig_hand;
    if sig_hand.0 as usize == ctx.tables.sig_hands.len() {
        ctx.tables.sig_hands.push(SigHandState {
            id: sig_hand,
            actions: Vec::new(),
        });
    }
    let [user, system, children_user, children_system] = stat.times;
    let mut state = TaskState {
        pid,
        parent: task.parent,
        pgid: stat.pgid,
        sid: stat.sid,
        ns_pids: status.ns_tgids,
        run: match task.stopped {
            Some(signal) => RunState::Stopped { signal },
            None => RunState::Running,
        },
        exit_signal: stat.exit_signal,
        mm: shared.mm,
        fd_table: shared.fd_table,
        fs: shared.fs,
        sig_hand,
        pending: Vec::new(),
        interval_timers: Default::default(),
        posix_timers: Vec::new(),
        rlimits: limits::collect(tid).map_err(read("its limits"))?,
        oom_score_adj: limits::oom_score_adj(tid).map_err(read("its oom_score_adj"))?,
        login_uid: prctl::login_uid(tid).map_err(read("its loginuid"))?,
        autogroup: sched::autogroup(tid).map_err(read("its autogroup"))?,
        controls: Default::default(),
        cpu_time: CpuTime {
            user,
            system,
            children_user,
            children_system,
        },
        threads: Vec::with_capacity(tids.len()),
    };
    for thread in &task.threads {
        let collected = collect_thread(ctx, task, thread);
        let what = format!("the state of thread {}", thread.tid);
        state.threads.push(collected.map_err(read(&what))?);
    }
    Ok(state)
}

fn collect_thread(
    ctx: &mut DumpContext<'_>,
    task: &FrozenTask,
    thread: &FrozenThread,
) -> io::Result<ThreadState> {
    let tid = thread.tid;
    let place = Place::Thread { pid: task.pid, tid };
    let stat = Stat::read(tid)?;
    let status = Status::read(tid)?;
    refused::check_thread(ctx, &place, thread, &status)?;
    let (head, len) = robust_list(tid)?;
    Ok(ThreadState {
        tid,
        ns_tids: status.ns_tids.clone(),
        registers: interrupted::image_registers(thread),
        xstate: xstate::collect(tid)?,
        interrupted: interrupted::classify(task, thread),
        signal_mask: thread.signal_mask(),
        pending: Vec::new(),
        alt_stack: SigAltStack::default(),
        clear_child_tid: 0,
        robust_list: RobustList { head, len },
        rseq: peek::rseq(tid)?,
        syscall_user_dispatch: peek::syscall_user_dispatch(tid)?,
        creds: creds::collect(&status),
        seccomp: seccomp::collect(ctx, &place, tid, &status)?,
        cgroups: cgroup::member(ctx, &place, tid)?,
        sched: sched::collect(tid)?,
        controls: ThreadControls {
            io_flusher: prctl::io_flusher(&stat),
            personality: prctl::personality(tid)?,
            ..ThreadControls::default()
        },
        comm: stat.comm.into(),
    })
}

/// Fills in what only the task itself can tell.
pub(crate) fn inspect(
    ctx: &mut DumpContext<'_>,
    task: &mut FrozenTask,
    state: &mut TaskState,
) -> Result<(), DumpError> {
    for index in 0..task.threads.len() {
        inspect_thread(ctx, task, state, index)?;
    }
    inspect_task(ctx, task, state)?;
    inspect_timers(ctx, task, state)
}

fn inspect_thread(
    ctx: &mut DumpContext<'_>,
    task: &mut FrozenTask,
    state: &mut TaskState,
    index: usize,
) -> Result<(), DumpError> {
    let pid = task.pid;
    let mut script = Script::new();
    let alt_stack = signals::ask_alt_stack(&mut script);
    let securebits = creds::ask(&mut script);
    let controls = prctl::ask_thread(&mut script);
    let outcome = task
        .run(index, &script)
        .map_err(|source| DumpError::Inject { pid, source })?;

    let Some(thread) = state.threads.get_mut(index) else {
        return Err(DumpError::NoSuchTask { pid });
    };
    thread.alt_stack = signals::answer_alt_stack(alt_stack, &outcome);
    creds::answer(&mut thread.creds, securebits, &outcome);
    controls.answer(&outcome, &mut thread.controls);
    thread.sched.timer_slack_ns = controls.timer_slack(&outcome);
    thread.clear_child_tid = controls.tid_address(&outcome);
    if controls.has_keyring(&outcome) {
        let place = Place::Thread {
            pid,
            tid: thread.tid,
        };
        let problem = "it has a keyring of its own, whose keys cannot be read".to_owned();
        ctx.block(place, problem, None);
    }
    Ok(())
}

fn inspect_task(
    ctx: &mut DumpContext<'_>,
    task: &mut FrozenTask,
    state: &mut TaskState,
) -> Result<(), DumpError> {
    let pid = task.pid;
    let mut script = Script::new();
    let actions = signals::ask_actions(&mut script);
    let controls = prctl::ask_task(&mut script);
    let outcome = task
        .run(0, &script)
        .map_err(|source| DumpError::Inject { pid, source })?;

    state.controls = controls.task(&outcome);
    if let Some(hands) = ctx.tables.sig_hands.get_mut(state.sig_hand.0 as usize) {
        hands.actions = actions.answer(&outcome);
    }
    for problem in controls.refused(&outcome) {
        ctx.block(Place::Task { pid }, problem.to_owned(), None);
    }
    Ok(())
}

/// Timers, clocks and queued signals, as of one moment.
fn inspect_timers(
    ctx: &mut DumpContext<'_>,
    task: &mut FrozenTask,
    state: &mut TaskState,
) -> Result<(), DumpError> {
    let pid = task.pid;
    let read = |what: &str| {
        let what = what.to_owned();
        move |source| DumpError::Read { pid, what, source }
    };
    let tids: Vec<u32> = task.threads.iter().map(|t| t.tid).collect();
    let mut seen = proc_timers::read(tids[0]).map_err(read("its timers"))?;
    timers::resolve(ctx, pid, &tids, &mut seen);

    let mut before = Queues::read(&tids).map_err(read("its queued signals"))?;
    let mut clocks = ClockState::default();
    for _ in 0..TIMER_READINGS {
        let (now, after) = read_timers(task, state, &seen)?;
        let quiet = after.of_timers() == before.of_timers();
        (clocks, before) = (now, after);
        if quiet {
            break;
        }
    }
    // The clocks of the image are those of one moment, for the timers of all.
    match ctx.clocks == ClockState::default() {
        true => ctx.clocks = clocks,
        false => {
            let real = &mut state.interval_timers[0];
            timers::as_of(&ctx.clocks, &clocks, real, &mut state.posix_timers);
        }
    }
    before.complete().map_err(read("its queued signals"))?;
    before.put(state);
    Ok(())
}

fn read_timers(
    task: &mut FrozenTask,
    state: &mut TaskState,
    seen: &[ProcTimer],
) -> Result<(ClockState, Queues), DumpError> {
    let pid = task.pid;
    let mut script = Script::new();
    let asked = timers::ask(&mut script, seen);
    let outcome = task
        .run(0, &script)
        .map_err(|source| DumpError::Inject { pid, source })?;
    state.interval_timers = asked.interval_timers(&outcome);
    state.posix_timers = asked.posix_timers(&outcome);
    let tids: Vec<u32> = task.threads.iter().map(|t| t.tid).collect();
    let queues = Queues::read(&tids).map_err(|source| DumpError::Read {
        pid,
        what: "its queued signals".to_owned(),
        source,
    })?;
    Ok((asked.clocks(&outcome), queues))
}

/// All queued signals of a task.
#[derive(Debug)]
struct Queues {
    shared: Vec<PendingSignal>,
    threads: BTreeMap<u32, Vec<PendingSignal>>,
}

impl Queues {
    fn read(tids: &[u32]) -> io::Result<Self> {
        let shared = match tids.first() {
            Some(&tid) => signals::queued(tid, true)?,
            None => Vec::new(),
        };
        let mut threads = BTreeMap::new();
        for &tid in tids {
            threads.insert(tid, signals::queued(tid, false)?);
        }
        Ok(Self { shared, threads })
    }

    /// Adds signals that are pending without being queued.
    fn complete(&mut self) -> io::Result<()> {
        for (index, (&tid, queue)) in self.threads.iter_mut().enumerate() {
            let status = Status::read(tid)?;
            signals::complete(queue, tid, false, status.pending)?;
            if index == 0 {
                let pending = status.shared_pending;
                signals::complete(&mut self.shared, tid, true, pending)?;
            }
        }
        Ok(())
    }

    fn of_timers(&self) -> Vec<&PendingSignal> {
        let queues = std::iter::once(&self.shared).chain(self.threads.values());
        queues.flat_map(|q| timers::signals_of_timers(q)).collect()
    }

    /// Hands the queues to the state; what timers sent stays with the timers.
    fn put(mut self, state: &mut TaskState) {
        timers::claim(&mut self.shared, None, &mut state.posix_timers);
        state.pending = self.shared;
        for thread in &mut state.threads {
            let mut queue = self.threads.remove(&thread.tid).unwrap_or_default();
            timers::claim(&mut queue, Some(thread.tid), &mut state.posix_timers);
            thread.pending = queue;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::options::DumpOptions;
    use crate::tracer::Frozen;

    /// The state of a program that does nothing, dumped and left alone.
    fn state_of(
        program: &mut Command,
    ) -> Result<(TaskState, Vec<String>), Box<dyn std::error::Error>> {
        let mut child = program.spawn()?;
        let sleeps = format!("{} ", libc::SYS_clock_nanosleep);
        while !std::fs::read_to_string(format!("/proc/{}/syscall", child.id()))?
            .starts_with(&sleeps)
        {
            std::thread::yield_now();
        }
        let options = DumpOptions::new(child.id(), "/nonexistent");
        let mut ctx = DumpContext::new(&options);
        let mut frozen = Frozen::freeze(child.id(), Duration::from_secs(5))?;
        let task = &mut frozen.tasks[0];
        let shared = Shared {
            mm: MmId(0),
            fd_table: FdTableId(0),
            fs: FsId(0),
            sig_hand: SigHandId(0),
        };
        let mut state = collect(&mut ctx, task, shared)?;
        inspect(&mut ctx, task, &mut state)?;
        assert!(ctx.clocks.monotonic_ns > 0);
        frozen.resume()?;
        assert!(child.try_wait()?.is_none(), "the target must live");
        child.kill()?;
        child.wait()?;
        Ok((state, ctx.blockers.into_iter().map(|b| b.problem).collect()))
    }

    #[test]
    fn an_idle_program_is_described() -> Result<(), Box<dyn std::error::Error>> {
        let (state, blockers) = state_of(Command::new("sleep").arg("60"))?;
        assert_eq!(blockers, [""; 0]);
        assert_eq!(state.threads.len(), 1);
        let thread = &state.threads[0];
        assert_eq!(thread.tid, state.pid);
        assert_ne!(thread.clear_child_tid, 0);
        assert_eq!(thread.controls.tsc, 1);
        assert_eq!(thread.creds.uids[0], rustix::process::getuid().as_raw());
        assert!(thread.xstate.area.0.len() > 512);
        assert_eq!(state.posix_timers, []);
        Ok(())
    }
}
