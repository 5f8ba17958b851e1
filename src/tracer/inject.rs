//! Running a script inside a living target, on a road that leads home from
//! every point at which we could die.
//!
//! In: the stub is written; then the registers are set to its entry; then the
//! signal mask. Out: the thread is interrupted behind the stub's munmap, so
//! that it stands at a PTRACE_EVENT_STOP again; then its signal mask is set;
//! then its registers, raw. See `icecore_parasite::stub` for the road in
//! between.
//!
//! Where a signal must end the interrupted call, the way out is longer: were
//! the mask set and then icecore killed, its handler would run inside the stub
//! and the call be issued again. So the mask is set at the entry of the stub's
//! ppoll, which replaces it before any signal can be delivered and tells
//! whether one must be.

use std::cell::Cell;
use std::io;
use std::mem::offset_of;

use icecore_images::thread::Registers;
use icecore_parasite::{ASK, ASK_UNTOLD, SCRIPT_HEADER, StubConstants, stub_layout};

use super::allowed::{self, Seccomp};
use super::freeze::{FrozenTask, FrozenThread};
use super::interrupted;
use super::memory::Memory;
use super::ptrace::{Gone, Resume, Stop, Stopped, TraceError};
use super::room::NoRoom;
use super::script::{Arg, Buffer, Outcome, Script, ScriptError};
use super::snapshot::Snapshot;
use super::stub::{NoPlace, StubPlace};
use crate::kernel::proc_text;

/// Why a script could not be run inside a task, or did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InjectError {
    /// A call of the script failed.
    #[error("inside thread {tid}")]
    Script {
        /// The thread.
        tid: u32,
        /// The call.
        #[source]
        source: ScriptError,
    },
    /// The task has no place for the stub.
    #[error("pid {pid}: no place to run code in")]
    NoPlace {
        /// The task.
        pid: u32,
        /// Why.
        #[source]
        source: NoPlace,
    },
    /// There is no memory for it.
    #[error("pid {pid}")]
    NoRoom {
        /// The task.
        pid: u32,
        /// Why.
        #[source]
        source: NoRoom,
    },
    /// A seccomp filter denies a call.
    #[error("thread {tid}: its seccomp filter number {filter} does not allow: {call}")]
    Denied {
        /// The thread.
        tid: u32,
        /// Counted from 0 in the order of installation.
        filter: usize,
        /// What the call is for.
        call: String,
    },
    /// The task has no live thread of that number.
    #[error("pid {pid}: no such thread")]
    NoThread {
        /// The task.
        pid: u32,
    },
    /// The task could not map memory for the script.
    #[error("thread {tid}: map {len} bytes for the parasite")]
    Map {
        /// The thread.
        tid: u32,
        /// Bytes.
        len: u64,
        /// What mmap said: EAGAIN where RLIMIT_MEMLOCK and mlockall(MCL_FUTURE)
        /// forbid it, ENOMEM for RLIMIT_AS and vm.max_map_count.
        #[source]
        source: io::Error,
    },
    /// The task could not unmap it again.
    #[error("thread {tid}: unmap the parasite")]
    Unmap {
        /// The thread.
        tid: u32,
        /// What munmap said.
        #[source]
        source: io::Error,
    },
    /// The task's memory could not be reached.
    #[error("thread {tid}: access the parasite's memory")]
    Memory {
        /// The thread.
        tid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// ptrace failed, or the thread ended.
    #[error(transparent)]
    Trace(#[from] TraceError),
}

impl InjectError {
    /// What would help.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            InjectError::NoRoom { .. } => Some(NoRoom::HELP),
            _ => None,
        }
    }
}

impl FrozenTask {
    /// Runs `script` inside the task, on its thread number `thread`, with
    /// everything put back afterwards.
    ///
    /// If icecore dies meanwhile, the script is run to its end and the thread
    /// goes on as before: a script must leave nothing behind.
    pub fn run(&mut self, thread: usize, script: &Script) -> Result<Outcome, InjectError> {
        if self.handlers.is_none() {
            self.learn_handlers(thread)?;
        }
        self.run_once(thread, script, &[])
    }

    fn run_once(
        &mut self,
        thread: usize,
        script: &Script,
        asked: &[(u64, Buffer)],
    ) -> Result<Outcome, InjectError> {
        let pid = self.pid;
        let place = self
            .stub_place()
            .map_err(|source| InjectError::NoPlace { pid, source })?;
        let frozen = self
            .threads
            .get(thread)
            .ok_or(InjectError::NoThread { pid })?;
        if !self.risk_seccomp
            && let Some((filter, call)) = allowed::script_denied(frozen, script)
        {
            let tid = frozen.tid;
            return Err(InjectError::Denied { tid, filter, call });
        }
        let len = (SCRIPT_HEADER + script.loaded_len()).next_multiple_of(4096) as u64;
        let constants = interrupted::way_home(self, frozen, len);
        self.room_for(len)
            .map_err(|source| InjectError::NoRoom { pid, source })?;
        self.write_stub(place, &constants)?;
        let frozen = self
            .threads
            .get_mut(thread)
            .ok_or(InjectError::NoThread { pid })?;
        let options = frozen.options_for(script, self.risk_seccomp);
        if options != 0 {
            frozen.set_options(options)?;
        }
        let visit = Visit {
            memory: &self.memory,
            place,
            constants: &constants,
            script,
            asked,
            born: Cell::new(None),
        };
        let outcome = frozen.run(&visit);
        self.born = visit.born.take();
        if options != 0 && !frozen.astray {
            frozen.set_options(0)?;
        }
        outcome
    }

    /// Asks the task which handlers let a call be restarted (SA_RESTART): the
    /// stub has to know to lead home out of an interrupted call. (Until then it
    /// would ask for itself.)
    fn learn_handlers(&mut self, thread: usize) -> Result<(), InjectError> {
        let caught = self.caught_signals();
        self.handlers = Some(Handlers {
            caught,
            restarting: 0,
            told: false,
        });
        // A thread outside such a call, if there is one, does not need to know.
        let calm = |t: &FrozenThread| !interrupted::depends_on_handlers(&t.registers);
        let asked = self.threads.iter().position(calm).unwrap_or(thread);
        let mut script = Script::new();
        let actions: Vec<_> = (1..=64u64)
            .filter(|signal| caught & (1 << (signal - 1)) != 0)
            .map(|signal| {
                let action = script.buffer(32);
                let args: [Arg; 4] = [signal.into(), 0.into(), action.into(), 8.into()];
                script.call("rt_sigaction", libc::SYS_rt_sigaction as u32, args);
                (signal, action)
            })
            .collect();
        let restarting = match actions.is_empty() {
            true => 0,
            false => restarting(&self.run_once(asked, &script, &actions)?, &actions),
        };
        self.handlers = Some(Handlers {
            caught,
            restarting,
            told: true,
        });
        Ok(())
    }

    /// Signals with handlers, as /proc tells.
    fn caught_signals(&self) -> u64 {
        let tid = self.threads.first().map_or(self.pid, |t| t.tid);
        proc_text::read(tid, "status")
            .ok()
            .and_then(|status| proc_text::hex(proc_text::field(&status, "SigCgt")?))
            .unwrap_or(0)
    }
}

/// Signals with handlers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handlers {
    /// All of them.
    pub(super) caught: u64,
    /// Those that let an interrupted call be restarted.
    pub(super) restarting: u64,
    /// Which these are is known.
    pub(super) told: bool,
}

/// Of signals whose actions were asked for those that let an interrupted call be
/// restarted.
fn restarting(outcome: &Outcome, asked: &[(u64, Buffer)]) -> u64 {
    asked
        .iter()
        .filter(|(_, action)| outcome.u64_at(*action, 8) & libc::SA_RESTART as u64 != 0)
        .fold(0, |mask, (signal, _)| mask | 1 << (signal - 1))
}

/// One run of a script inside a thread.
struct Visit<'a> {
    memory: &'a Memory,
    place: StubPlace,
    constants: &'a StubConstants,
    script: &'a Script,
    /// Signals whose actions the script asks for, where it is to tell them.
    asked: &'a [(u64, Buffer)],
    /// The copy it has made of the task, if it does.
    born: Cell<Option<Snapshot>>,
}

impl Visit<'_> {
    /// Takes hold of what the thread, which stands at `stop`, has made.
    fn adopt(&self, stopped: &Stopped, stop: Stop) -> Result<(), TraceError> {
        if !self.script.forks() || stop != Stop::Other(libc::PTRACE_EVENT_CLONE as u32) {
            let tid = stopped.tid();
            return Err(TraceError::Unexpected { tid, stop });
        }
        let pid = stopped.event_message()? as u32;
        self.born.set(Some(Snapshot::adopt(pid, self.place)?));
        Ok(())
    }
}

impl FrozenThread {
    /// What the thread is traced with while it runs `script`.
    fn options_for(&self, script: &Script, risk_seccomp: bool) -> u32 {
        const PTRACE_O_SUSPEND_SECCOMP: u32 = 1 << 21;
        let mut options = 0;
        if risk_seccomp && !matches!(self.seccomp, Seccomp::Off) {
            options |= PTRACE_O_SUSPEND_SECCOMP;
        }
        if script.forks() {
            options |= libc::PTRACE_O_TRACECLONE as u32;
        }
        options
    }

    fn set_options(&mut self, options: u32) -> Result<(), TraceError> {
        match &mut self.stopped {
            Some(stopped) => stopped.set_options(options),
            None => Ok(()),
        }
    }

    fn run(&mut self, visit: &Visit<'_>) -> Result<Outcome, InjectError> {
        let tid = self.tid;
        let (place, constants) = (visit.place, visit.constants);
        let stopped = self
            .stopped
            .as_mut()
            .ok_or(TraceError::from(Gone { tid }))?;
        self.astray = true;
        enter(stopped, &self.registers, constants.all_signals, place)?;
        let result = drive(stopped, visit);
        if let Err(InjectError::Trace(e)) = result {
            return Err(e.into());
        }
        if constants.ask != 0 {
            walk_to(stopped, visit, stub_layout().asked)?;
            stopped.set_signal_mask(self.mask)?;
            next_syscall_stop(stopped, visit)?;
            stand(stopped)?;
        } else {
            stand(stopped)?;
            stopped.set_signal_mask(self.mask)?;
        }
        stopped.set_registers(&self.registers)?;
        self.astray = false;
        result
    }
}

fn enter(
    stopped: &mut Stopped,
    home: &Registers,
    mask: u64,
    place: StubPlace,
) -> Result<(), TraceError> {
    const FLAGS: u64 = 0x202;
    stopped.set_registers(&Registers {
        rip: place.entry(),
        orig_rax: u64::MAX,
        eflags: FLAGS,
        ..*home
    })?;
    stopped.set_signal_mask(mask)
}

/// Drives the thread through the stub up to the exit of its munmap.
fn drive(stopped: &mut Stopped, visit: &Visit<'_>) -> Result<Outcome, InjectError> {
    let &Visit {
        memory,
        constants,
        script,
        ..
    } = visit;
    let tid = stopped.tid();
    let (len, notify) = (constants.area_len, constants.notify as u32);
    let untold = constants.ask == ASK_UNTOLD;
    let area = match map_area(stopped, visit)? {
        Ok(area) => area,
        Err(source) => return Err(InjectError::Map { tid, len, source }),
    };
    let loaded = load(memory, area, script);
    if notify != 0 {
        await_signal(stopped, visit, notify)?;
    } else if untold {
        walk_to(stopped, visit, stub_layout().told)?;
    } else {
        walk_to(stopped, visit, stub_layout().unmapped)?;
    }
    let fetched = loaded.and_then(|()| fetch(memory, area, script));
    if untold {
        tell_stub(stopped, visit, fetched.as_ref().ok())?;
        if notify == 0 {
            next_syscall_stop(stopped, visit)?;
        }
    }
    if notify != 0 || untold {
        walk_to(stopped, visit, stub_layout().unmapped)?;
    }
    let unmapped = exit_of_call(stopped, visit)?;
    let bytes = fetched.map_err(|source| InjectError::Memory { tid, source })?;
    unmapped.map_err(|source| InjectError::Unmap { tid, source })?;
    script
        .outcome(bytes)
        .map_err(|source| InjectError::Script { tid, source })
}

/// Tells a stub that would find out by itself which signals must interrupt the
/// call; from here on it asks ppoll where the tracer expects it.
fn tell_stub(
    stopped: &mut Stopped,
    visit: &Visit<'_>,
    fetched: Option<&Vec<u8>>,
) -> Result<(), TraceError> {
    let outcome = fetched.and_then(|bytes| visit.script.outcome(bytes.clone()).ok());
    let told = outcome.map_or(0, |outcome| restarting(&outcome, visit.asked));
    let constants = visit.place.address + stub_layout().constants;
    let mask = visit.constants.ask_mask | told;
    for (offset, value) in [
        (offset_of!(StubConstants, ask_mask), mask),
        (offset_of!(StubConstants, ask), ASK),
    ] {
        stopped.poke(constants + offset as u64, value)?;
    }
    Ok(())
}

/// Lets the stub map its area; gives the area's address.
fn map_area(stopped: &mut Stopped, visit: &Visit<'_>) -> Result<io::Result<u64>, TraceError> {
    walk_to(stopped, visit, stub_layout().mapped)?;
    exit_of_call(stopped, visit)
}

/// Puts the script into the area; its header, which makes the stub run it,
/// with it.
fn load(memory: &Memory, area: u64, script: &Script) -> io::Result<()> {
    let mut bytes = vec![0; SCRIPT_HEADER];
    bytes[..8].copy_from_slice(&(script.call_count() as u64).to_le_bytes());
    bytes.extend(script.load(area + SCRIPT_HEADER as u64));
    memory.force_write(area, &bytes)
}

fn fetch(memory: &Memory, area: u64, script: &Script) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; script.loaded_len()];
    memory.read(area + SCRIPT_HEADER as u64, &mut bytes)?;
    Ok(bytes)
}

/// Goes on until the thread has sent itself `signal`; that signal, and the same
/// from elsewhere, which would be ignored, are swallowed.
fn await_signal(stopped: &mut Stopped, visit: &Visit<'_>, signal: u32) -> Result<(), TraceError> {
    let ip = visit.place.address + stub_layout().notified;
    let mut how = Resume::Cont(0);
    loop {
        how = match stopped.resume_to_stop(how)? {
            Stop::Signal(s) if s == signal => match stopped.registers()?.rip == ip {
                true => return Ok(()),
                false => Resume::Cont(0),
            },
            Stop::Signal(s) if s == libc::SIGSTOP as u32 => Resume::Cont(s),
            Stop::Event { .. } => Resume::Cont(0),
            stop => {
                visit.adopt(stopped, stop)?;
                Resume::Cont(0)
            }
        };
    }
}

/// Goes on to the entry of the system call that returns to `offset` in the stub.
fn walk_to(stopped: &mut Stopped, visit: &Visit<'_>, offset: u64) -> Result<(), TraceError> {
    let ip = visit.place.address + offset;
    loop {
        next_syscall_stop(stopped, visit)?;
        if stopped.registers()?.rip == ip {
            return Ok(());
        }
        next_syscall_stop(stopped, visit)?;
    }
}

/// From the entry of a system call to its exit; gives what it returned.
fn exit_of_call(stopped: &mut Stopped, visit: &Visit<'_>) -> Result<io::Result<u64>, TraceError> {
    next_syscall_stop(stopped, visit)?;
    let ret = stopped.registers()?.rax as i64;
    Ok(if (-4095..0).contains(&ret) {
        Err(io::Error::from_raw_os_error(-ret as i32))
    } else {
        Ok(ret as u64)
    })
}

/// Goes on to the next entry or exit of a system call. SIGSTOP cannot be
/// blocked: it is passed on, and the group-stop it brings walked out of; the
/// task stops when it is let go.
fn next_syscall_stop(stopped: &mut Stopped, visit: &Visit<'_>) -> Result<(), TraceError> {
    let mut how = Resume::Syscall(0);
    loop {
        how = match stopped.resume_to_stop(how)? {
            Stop::Syscall => return Ok(()),
            Stop::Signal(signal) if signal == libc::SIGSTOP as u32 => Resume::Syscall(signal),
            Stop::Event { .. } => Resume::Syscall(0),
            stop => {
                visit.adopt(stopped, stop)?;
                Resume::Syscall(0)
            }
        };
    }
}

/// From the exit of a system call to a PTRACE_EVENT_STOP, on the way back to
/// user mode.
fn stand(stopped: &mut Stopped) -> Result<(), TraceError> {
    stopped.interrupt()?;
    let mut how = Resume::Cont(0);
    loop {
        how = match stopped.resume_to_stop(how)? {
            Stop::Event { .. } => return Ok(()),
            Stop::Signal(signal) if signal == libc::SIGSTOP as u32 => Resume::Cont(signal),
            stop => {
                let tid = stopped.tid();
                return Err(TraceError::Unexpected { tid, stop });
            }
        };
    }
}
