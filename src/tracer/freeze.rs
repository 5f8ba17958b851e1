//! Frozen tasks. (How a whole forest is frozen: [`super::forest`].)
//!
//! Freezing is PTRACE_SEIZE and PTRACE_INTERRUPT for every thread, the list of
//! threads read again until nothing new appears. A frozen thread stands at a
//! PTRACE_EVENT_STOP with its own registers and signal mask, always, except
//! while [`FrozenTask::run`] is at work; if icecore dies, the kernel lets it go
//! from there and it notices nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use icecore_images::thread::{Registers, Rseq, SyscallUserDispatch};

use super::allowed::Seccomp;
use super::asleep::{self, Asleep};
use super::inject::Handlers;
use super::interrupted;
use super::memory::Memory;
use super::peek;
use super::ptrace::{Running, Stop, Stopped, TraceError};
use super::refuse::{self, Refusal};
use super::rseq;
use super::snapshot::Snapshot;
use super::stub::StubPlace;
use crate::kernel::stat::Stat;

pub use super::inject::InjectError;

/// A frozen task.
#[derive(Debug)]
pub struct FrozenTask {
    /// Thread-group id.
    pub pid: u32,
    /// Its parent, if that is a task of the forest too.
    pub parent: Option<u32>,
    /// The signal that stopped it, if job control had stopped it before.
    pub stopped: Option<u32>,
    /// Its live threads, the leader first where it is alive.
    pub threads: Vec<FrozenThread>,
    pub(super) memory: Memory,
    pub(super) stub: Option<StubPlace>,
    /// Its signal handlers, once they are known.
    pub(super) handlers: Option<Handlers>,
    /// Its memory cgroup is far from its limit.
    pub(super) has_ample_room: bool,
    /// Seccomp is suspended while code runs, whatever its filters say.
    pub(super) risk_seccomp: bool,
    /// Addresses in the tail of the vDSO that tasks which share its memory
    /// have in use.
    pub(super) reserved: Vec<u64>,
    /// What lies there must stay: somebody may still run it.
    pub(super) keep_stub: bool,
    /// Whom it shares its memory with: tasks of the forest with the same number.
    pub(super) memory_group: Option<u32>,
    /// The copy it has just made of itself.
    pub(super) born: Option<Snapshot>,
}

/// A frozen thread.
#[derive(Debug)]
pub struct FrozenThread {
    /// Thread id.
    pub tid: u32,
    /// Registers at the freeze: raw, but for two things. A thread caught
    /// inside an rseq critical section is at its abort handler, and a call
    /// that the freeze would end with EINTR is one that the kernel restarts.
    pub registers: Registers,
    /// How long it had been asleep in a system call, where it was and
    /// that could be read before the freeze.
    pub slept: Option<Duration>,
    /// The call it was asleep in before the freeze.
    pub(super) asleep: Option<Asleep>,
    /// The freeze had ended that call with EINTR.
    pub(super) had_ended: bool,
    pub(super) frozen_at: Instant,
    pub(super) mask: u64,
    pub(super) seccomp: Seccomp,
    /// `None` only while it is being let go.
    pub(super) stopped: Option<Stopped>,
    /// Something went wrong inside the stub, which will lead home by itself.
    pub(super) astray: bool,
}

/// Why a task could not be frozen. Everything goes on as before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FreezeError {
    /// It is none that could be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Some threads would not stop.
    #[error(
        "thread {tid} did not stop within {} s: {why}",
        .limit.as_secs_f32()
    )]
    Timeout {
        /// The first of them.
        tid: u32,
        /// The limit.
        limit: Duration,
        /// What it was doing.
        why: String,
    },
    /// It ended meanwhile.
    #[error("pid {pid} ended while it was being frozen")]
    Ended {
        /// The task.
        pid: u32,
    },
    /// The cgroup by which it stood still could not be thawed.
    #[error("thaw its cgroup")]
    Thaw {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// ptrace failed.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// kcmp(2) failed.
    #[error("find out which tasks share their memory (kcmp)")]
    Compare {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// /proc could not be read.
    #[error("read /proc/{pid}/{file}")]
    Proc {
        /// The task or thread.
        pid: u32,
        /// The file.
        file: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl FreezeError {
    /// What would help.
    pub fn help(&self) -> Option<String> {
        match self {
            FreezeError::Refused(refusal) => refusal.help(),
            FreezeError::Timeout { .. } => Some("allow it more time with --timeout".to_owned()),
            _ => None,
        }
    }
}

impl FrozenTask {
    /// A task whose threads all stand still.
    pub(super) fn new(
        pid: u32,
        stopped: Option<u32>,
        mut threads: Vec<FrozenThread>,
    ) -> Result<Self, FreezeError> {
        threads.sort_by_key(|t| (t.tid != pid, t.tid));
        let Some(first) = threads.first() else {
            return Err(FreezeError::Ended { pid });
        };
        let memory = Memory::open(first.tid).map_err(|source| FreezeError::Proc {
            pid: first.tid,
            file: "mem",
            source,
        })?;
        Ok(Self {
            pid,
            parent: None,
            stopped,
            threads,
            memory,
            stub: None,
            handlers: None,
            has_ample_room: false,
            risk_seccomp: false,
            reserved: Vec::new(),
            keep_stub: false,
            memory_group: None,
            born: None,
        })
    }

    /// Makes it ready to be looked at: threads leave what a killed icecore or
    /// the freeze itself has left them in.
    pub(super) fn settle(&mut self, deadline: Instant, limit: Duration) -> Result<(), FreezeError> {
        refuse::check_frozen(self)?;
        self.leave_old_stub(deadline, limit)?;
        for thread in &mut self.threads {
            rseq::abort_section(thread, &self.memory)?;
        }
        Ok(())
    }

    /// A directory of /proc through which the whole task can be read, even
    /// where its leader has ended (`/proc/PID/task/TID`).
    pub fn proc_dir(&self) -> PathBuf {
        let tid = self.threads.first().map_or(self.pid, |t| t.tid);
        PathBuf::from(format!("/proc/{}/task/{tid}", self.pid))
    }

    /// Whether the thread-group leader has ended.
    pub fn leader_is_gone(&self) -> bool {
        self.threads.first().is_none_or(|t| t.tid != self.pid)
    }

    /// Reads the task's memory, honouring page protection where it can
    /// (process_vm_readv) and forcing it elsewhere (/proc/PID/mem).
    pub fn read_memory(&self, address: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        self.memory.read(address, buffer)
    }

    /// The ids of its live threads, the leader's first where it is alive.
    pub fn tids(&self) -> Vec<u32> {
        self.threads.iter().map(|t| t.tid).collect()
    }

    /// A live thread of it (the leader may be none).
    pub fn a_tid(&self) -> u32 {
        self.threads.first().map_or(self.pid, |t| t.tid)
    }

    /// Whether something went wrong inside the stub on one of its threads.
    pub(super) fn is_astray(&self) -> bool {
        self.threads.iter().any(|t| t.astray)
    }
}

impl Drop for FrozenTask {
    fn drop(&mut self) {
        // Whoever cannot be let go so has ended, or goes as its thread drops.
        let _ = self.prepare_to_leave();
        let _ = self.detach();
    }
}

/// Live threads of the task; none where it has ended.
pub(super) fn live_threads(pid: u32) -> Result<Vec<u32>, FreezeError> {
    let proc_error = |source| FreezeError::Proc {
        pid,
        file: "task",
        source,
    };
    let is_gone = |e: &std::io::Error| {
        e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH)
    };
    let entries = match std::fs::read_dir(format!("/proc/{pid}/task")) {
        Err(e) if is_gone(&e) => return Ok(Vec::new()),
        other => other.map_err(proc_error)?,
    };
    let mut live = Vec::new();
    for entry in entries {
        let name = match entry {
            Err(e) if is_gone(&e) => break,
            other => other.map_err(proc_error)?.file_name(),
        };
        let tid = name.to_str().and_then(|n| n.parse().ok());
        live.extend(tid.filter(|tid| is_alive(*tid)));
    }
    Ok(live)
}

pub(super) fn is_alive(tid: u32) -> bool {
    Stat::read(tid).is_ok_and(|stat| !matches!(stat.state, b'Z' | b'X'))
}

/// Seizes and interrupts all, before any is waited for.
pub(super) fn seize_all(
    asleep: Vec<(u32, Option<Asleep>)>,
) -> Result<Vec<(Running, Option<Asleep>)>, FreezeError> {
    let mut seized = Vec::with_capacity(asleep.len());
    for (tid, asleep) in asleep {
        let Some(running) = seize(tid)? else {
            continue;
        };
        match running.interrupt() {
            Err(e) if !e.is_gone() => return Err(e.into()),
            _ => seized.push((running, asleep)),
        }
    }
    Ok(seized)
}

/// Seizes a thread; `None` where it has ended.
fn seize(tid: u32) -> Result<Option<Running>, FreezeError> {
    const TRIES: u32 = 5;
    let mut tries = 0;
    loop {
        let error = match Running::seize(tid, 0) {
            Ok(running) => return Ok(Some(running)),
            Err(e) if e.is_gone() => return Ok(None),
            Err(e) => e,
        };
        // EPERM is also what a thread that has just ended gives, though another
        // may have its id by now: one of ours, maybe, that executes a program.
        if !is_alive(tid) {
            return Ok(None);
        }
        if refuse::is_ours(tid) {
            return Ok(Some(Running::assume(tid)));
        }
        tries += 1;
        if tries == TRIES {
            return Err(refuse::seize_error(tid, error).into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Takes out threads that are no longer what they were when they stopped. Where
/// a thread that does not lead executes a program, it goes on under the
/// leader's id, and everyone else ends, stopped or not.
pub(super) fn take_replaced(
    stopped: &mut BTreeMap<u32, FrozenThread>,
) -> Vec<(Running, Option<Asleep>)> {
    let replaced: Vec<_> = stopped
        .values()
        .filter(|thread| !thread.stands())
        .map(|thread| thread.tid)
        .collect();
    for tid in &replaced {
        if let Some(mut thread) = stopped.remove(tid) {
            thread.stopped = None;
        }
    }
    let running = |tid| (Running::assume(tid), None);
    replaced.into_iter().map(running).collect()
}

/// How long a thread that does not stop is waited for before it is looked
/// whether it still could.
const PATIENCE: Duration = Duration::from_millis(20);

/// Waits until a thread stands still; `None` where it has ended.
pub(super) fn await_stop(
    running: Running,
    asleep: Option<Asleep>,
    deadline: Instant,
    limit: Duration,
) -> Result<Option<(FrozenThread, Option<u32>)>, FreezeError> {
    let tid = running.tid();
    let mut running = running;
    loop {
        let (stopped, stop) = match running.wait_until(deadline.min(Instant::now() + PATIENCE)) {
            Ok(Ok(stopped)) => stopped,
            // A leader that has ended is not told of before all others have.
            Ok(Err(_)) if !is_alive(tid) => return Ok(None),
            Ok(Err(still)) if Instant::now() < deadline => {
                running = still;
                continue;
            }
            Ok(Err(_)) => {
                let why = asleep::describe(tid);
                return Err(FreezeError::Timeout { tid, limit, why });
            }
            Err(e) if e.is_gone() => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        match stop {
            Stop::Event { group_stop } => {
                return match FrozenThread::new(stopped, asleep) {
                    Ok(thread) => Ok(Some((thread, group_stop))),
                    Err(e) if e.is_gone() => Ok(None),
                    Err(e) => Err(e.into()),
                };
            }
            // It was about to get a signal when it was seized: it gets it, and
            // stops again.
            Stop::Signal(signal) => match stopped.resume(super::ptrace::Resume::Cont(signal)) {
                Ok(again) => running = again,
                Err(e) if e.is_gone() => return Ok(None),
                Err(e) => return Err(e.into()),
            },
            Stop::Syscall | Stop::Other(_) => {
                return Err(TraceError::Unexpected { tid, stop }.into());
            }
        }
    }
}

impl FrozenThread {
    pub(super) fn new(mut stopped: Stopped, asleep: Option<Asleep>) -> Result<Self, TraceError> {
        let frozen_at = Instant::now();
        let mut registers = stopped.registers()?;
        let mask = peek::signal_mask(stopped.tid()).map_err(|source| TraceError::Request {
            request: "getsigmask",
            tid: stopped.tid(),
            source,
        })?;
        let asleep = asleep.filter(|a| a.is_call_of(&registers));
        if let Some(asleep) = asleep.filter(|a| a.continued) {
            // The kernel looks at the -ERESTART* only; who reads the image
            // wants to know the call.
            registers.orig_rax = asleep.nr as u64;
        }
        let had_ended = interrupted::undo_eintr(&mut registers);
        if had_ended {
            stopped.set_registers(&registers)?;
        }
        let tid = stopped.tid();
        Ok(Self {
            tid,
            registers,
            slept: asleep.as_ref().and_then(|a| a.slept(tid, frozen_at)),
            asleep,
            had_ended,
            frozen_at,
            mask,
            seccomp: Seccomp::Off,
            stopped: Some(stopped),
            astray: false,
        })
    }

    /// Whether it still stands where it has stopped.
    pub(super) fn stands(&self) -> bool {
        let registers = self.stopped.as_ref().map(Stopped::registers);
        let Some(Ok(now)) = registers else {
            return false;
        };
        let place = |r: &Registers| (r.rip, r.rsp, r.fs_base);
        place(&now) == place(&self.registers)
    }

    /// The whole XSAVE area in standard format.
    pub fn xstate(&self) -> std::io::Result<Vec<u8>> {
        peek::xstate(self.tid)
    }

    /// Blocked signals; for a thread inside sigsuspend, ppoll and their like
    /// those that will be blocked after the call.
    pub fn signal_mask(&self) -> u64 {
        self.mask
    }

    /// Queued signals, its own or (`shared`) its task's, in queue order.
    pub fn pending(&self, shared: bool) -> std::io::Result<Vec<[u8; 128]>> {
        peek::queued_signals(self.tid, shared)
    }

    /// The registered rseq area.
    pub fn rseq(&self) -> std::io::Result<Option<Rseq>> {
        peek::rseq(self.tid)
    }

    /// Syscall user dispatch, if it is on.
    pub fn syscall_user_dispatch(&self) -> std::io::Result<Option<SyscallUserDispatch>> {
        peek::syscall_user_dispatch(self.tid)
    }

    /// Seccomp filter number `index`, the one installed first being 0, and
    /// its flags; `None` past the last.
    pub fn seccomp_filter(
        &self,
        index: usize,
    ) -> std::io::Result<Option<(Vec<peek::SockFilter>, u64)>> {
        peek::seccomp_filter(self.tid, index)
    }

    /// Sets registers that it goes on with, directly before it is let go.
    pub(super) fn set_registers_to_leave_with(
        &mut self,
        registers: &Registers,
    ) -> Result<(), TraceError> {
        match &mut self.stopped {
            Some(stopped) if !self.astray => stopped.set_registers(registers),
            _ => Ok(()),
        }
    }

    /// Lets it go.
    pub(super) fn detach(mut self) -> Result<(), TraceError> {
        match self.stopped.take() {
            Some(stopped) => stopped.detach(0),
            None => Ok(()),
        }
    }

    /// Waits until it, killed, has ended, and lets its parent know.
    pub(super) fn reap(mut self) {
        self.stopped = None;
        // SAFETY: no status is asked for.
        while unsafe { libc::waitpid(self.tid as i32, std::ptr::null_mut(), libc::__WALL) } == -1
            && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
        {}
    }
}

impl Drop for FrozenThread {
    fn drop(&mut self) {
        if let Some(stopped) = self.stopped.take() {
            // It can only fail because the thread has ended.
            let _ = stopped.detach(0);
        }
    }
}
