//! Remote control of a child under restore, one thread of it: single system
//! calls through any `syscall` instruction, scripts through the restorer,
//! final registers.
//!
//! Such a child has no life of its own yet: it dies with its tracer
//! (PTRACE_O_EXITKILL), all its signals are blocked, and whatever it holds in
//! registers is ours. None of the care that a living target needs applies.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use icecore_images::thread::Registers;
use rustix::io::Errno;

use super::ptrace::{Resume, Running, Stop, Stopped, TraceError};

/// `orig_rax` of a thread that is in no system call.
const NO_CALL: u64 = u64::MAX;
/// Direction and trap flag clear, interrupts on: how a script starts.
const PLAIN_EFLAGS: u64 = 0x202;
const OPTIONS: u32 =
    (libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACEFORK) as u32;
const SUSPEND_SECCOMP: u32 = 1 << 21;

/// A thread under remote control, stopped.
#[derive(Debug)]
pub struct Remote {
    thread: Stopped,
    base: Registers,
}

/// Remote control failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// ptrace failed, or the thread has ended.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The thread got a signal that it could not have got.
    #[error("thread {tid} was hit by signal {signal} at {rip:#x}")]
    Hit {
        /// The thread.
        tid: u32,
        /// The signal.
        signal: u32,
        /// Where.
        rip: u64,
    },
    /// Memory of the child could not be read or written.
    #[error("{what} {len} bytes at {address:#x}")]
    Memory {
        /// "read" or "write".
        what: &'static str,
        /// Where.
        address: u64,
        /// How much.
        len: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What a remote system call did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Returned {
    /// Its raw result.
    pub value: i64,
    /// The thread or process it created, as the tracer's pid namespace
    /// numbers it.
    pub created: Option<u32>,
}

impl Returned {
    /// The result, or the error it stands for.
    pub fn result(self) -> Result<u64, Errno> {
        if (-4095..0).contains(&self.value) {
            Err(Errno::from_raw_os_error(-self.value as i32))
        } else {
            Ok(self.value as u64)
        }
    }
}

/// Which of a script's calls stop the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// None: the breakpoint at the script's end does. It resets the child's
    /// action for SIGTRAP.
    Fast,
    /// Every one: the script ends at its last call, whose result is not written
    /// back, and nothing is disturbed.
    Careful,
}

impl Remote {
    /// Takes over the child `pid`. From here on it dies with us, as do the
    /// threads and processes it creates, which are attached at once.
    pub fn seize(pid: u32, suspend_seccomp: bool) -> Result<Self, RemoteError> {
        let suspend = if suspend_seccomp { SUSPEND_SECCOMP } else { 0 };
        let running = Running::seize(pid, OPTIONS | suspend)?;
        running.interrupt()?;
        Self::first_stop(running)
    }

    /// Waits for the first stop of a thread or process that was attached at its
    /// creation.
    pub fn adopt(tid: u32) -> Result<Self, RemoteError> {
        Self::first_stop(Running::assume(tid))
    }

    fn first_stop(running: Running) -> Result<Self, RemoteError> {
        let (thread, stop) = running.wait()?;
        let base = thread.registers()?;
        let mut remote = Self { thread, base };
        remote.until_event_stop(stop)?;
        remote.base = remote.thread.registers()?;
        Ok(remote)
    }

    /// Its thread id, as the tracer sees it.
    pub fn tid(&self) -> u32 {
        self.thread.tid()
    }

    /// The stack pointer it was taken over with.
    pub fn stack(&self) -> u64 {
        self.base.rsp
    }

    /// Has the thread run from registers of ours, changed by `change`, once it is let go.
    pub fn start_at(&mut self, change: impl FnOnce(&mut Registers)) -> Result<(), RemoteError> {
        self.come_to_rest()?;
        let mut registers = self.plain();
        change(&mut registers);
        Ok(self.thread.set_registers(&registers)?)
    }

    /// The tracee underneath.
    pub fn thread(&mut self) -> &mut Stopped {
        &mut self.thread
    }

    /// Makes one system call through the `syscall` instruction at `at`.
    pub fn syscall(&mut self, at: u64, nr: u32, args: &[u64]) -> Result<Returned, RemoteError> {
        self.enter_syscall(at, nr, args)?;
        self.finish_syscall()
    }

    /// Makes a system call with an interruption already pending, so that a
    /// call that would sleep returns at once with what restarts it.
    pub fn interrupted_syscall(
        &mut self,
        at: u64,
        nr: u32,
        args: &[u64],
    ) -> Result<Returned, RemoteError> {
        self.enter_syscall(at, nr, args)?;
        self.thread.interrupt()?;
        self.finish_syscall()
    }

    /// Lets the thread end by exit(2), it alone, with `mask` as what it leaves
    /// to be seen of its signal mask.
    pub fn exit(mut self, at: u64, mask: u64) -> Result<(), RemoteError> {
        self.enter_syscall(at, libc::SYS_exit as u32, &[0])?;
        // Not before: from here no signal can be delivered to it any more.
        self.thread.set_signal_mask(mask)?;
        self.thread.resume(Resume::Cont(0))?;
        Ok(())
    }

    /// Lets the process end by a system call that does not return, and waits
    /// until it has: it is its parent's to reap then.
    pub fn end(mut self, at: u64, nr: libc::c_long, arg: u64) -> Result<(), RemoteError> {
        self.enter_syscall(at, nr as u32, &[arg])?;
        let tid = self.tid();
        self.thread.resume(Resume::Cont(0))?;
        wait_for_end(tid);
        Ok(())
    }

    /// Ends the process by a signal, which has its default action, and waits
    /// until it has ended.
    pub fn end_by(mut self, signal: u32) -> Result<(), RemoteError> {
        self.come_to_rest()?;
        let tid = self.tid();
        self.thread.set_signal_mask(0)?;
        // SAFETY: kill takes numbers only; the pid is a tracee's, which nobody
        // has waited for.
        unsafe { libc::kill(tid as i32, signal as i32) };
        loop {
            match self.thread.resume_to_stop(Resume::Cont(0)) {
                Ok(Stop::Signal(got)) if got == signal => break,
                Ok(Stop::Signal(got)) => self.refuse_fault(got)?,
                Ok(_) => {}
                // SIGKILL stops nowhere.
                Err(_) => break,
            }
        }
        // Gone already, where that fails.
        let _ = self.thread.resume(Resume::Cont(signal));
        wait_for_end(tid);
        Ok(())
    }

    fn enter_syscall(&mut self, at: u64, nr: u32, args: &[u64]) -> Result<(), RemoteError> {
        let mut six = [0; 6];
        for (slot, arg) in six.iter_mut().zip(args) {
            *slot = *arg;
        }
        let [rdi, rsi, rdx, r10, r8, r9] = six;
        let registers = Registers {
            rax: u64::from(nr),
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            rip: at,
            ..self.plain()
        };
        self.thread.set_registers(&registers)?;
        self.until_syscall_stop().map(|_| ())
    }

    fn finish_syscall(&mut self) -> Result<Returned, RemoteError> {
        let created = self.until_syscall_stop()?;
        Ok(Returned {
            value: self.thread.registers()?.rax as i64,
            created,
        })
    }

    /// Goes on until the next syscall stop; says what was created on the way.
    fn until_syscall_stop(&mut self) -> Result<Option<u32>, RemoteError> {
        let mut created = None;
        loop {
            match self.thread.resume_to_stop(Resume::Syscall(0))? {
                Stop::Syscall => return Ok(created),
                Stop::Other(_) => created = Some(self.thread.event_message()? as u32),
                Stop::Event { .. } => {}
                Stop::Signal(signal) => self.refuse_fault(signal)?,
            }
        }
    }

    /// Runs the restorer at `entry` over the script whose header is at
    /// `script` and that has `calls` calls.
    pub fn run(
        &mut self,
        entry: u64,
        script: u64,
        calls: usize,
        pace: Pace,
    ) -> Result<(), RemoteError> {
        let registers = Registers {
            rbx: script,
            rip: entry,
            ..self.plain()
        };
        self.thread.set_registers(&registers)?;
        match pace {
            Pace::Fast => self.until_breakpoint(),
            Pace::Careful => self.until_end_of_call(calls),
        }
    }

    fn until_breakpoint(&mut self) -> Result<(), RemoteError> {
        loop {
            match self.thread.resume_to_stop(Resume::Cont(0))? {
                Stop::Signal(signal) if signal == libc::SIGTRAP as u32 => return Ok(()),
                Stop::Signal(signal) => self.refuse_fault(signal)?,
                Stop::Syscall | Stop::Event { .. } | Stop::Other(_) => {}
            }
        }
    }

    /// Stops at the exit of the script's call number `calls`, or at the
    /// breakpoint that a failing call leads to.
    fn until_end_of_call(&mut self, calls: usize) -> Result<(), RemoteError> {
        let mut stops = 2 * calls;
        while stops > 0 {
            match self.thread.resume_to_stop(Resume::Syscall(0))? {
                Stop::Syscall => stops -= 1,
                Stop::Signal(signal) if signal == libc::SIGTRAP as u32 => return Ok(()),
                Stop::Signal(signal) => self.refuse_fault(signal)?,
                Stop::Event { .. } | Stop::Other(_) => {}
            }
        }
        Ok(())
    }

    /// Goes on to a stop at which no system call is under way any more, without
    /// an instruction of the thread's being run. Raw registers that restart a
    /// call may be put back there.
    pub fn come_to_rest(&mut self) -> Result<(), RemoteError> {
        self.thread.interrupt()?;
        let stop = self.thread.resume_to_stop(Resume::Cont(0))?;
        self.until_event_stop(stop)
    }

    fn until_event_stop(&mut self, mut stop: Stop) -> Result<(), RemoteError> {
        loop {
            match stop {
                Stop::Event { .. } => return Ok(()),
                Stop::Signal(signal) => self.refuse_fault(signal)?,
                Stop::Syscall | Stop::Other(_) => {}
            }
            stop = self.thread.resume_to_stop(Resume::Cont(0))?;
        }
    }

    /// A SIGSTOP from outside, which cannot be blocked, is dropped; any other
    /// signal is a fault of the thread's own and ends the restore.
    fn refuse_fault(&mut self, signal: u32) -> Result<(), RemoteError> {
        if signal == libc::SIGSTOP as u32 {
            return Ok(());
        }
        Err(RemoteError::Hit {
            tid: self.tid(),
            signal,
            rip: self.thread.registers()?.rip,
        })
    }

    fn plain(&self) -> Registers {
        Registers {
            orig_rax: NO_CALL,
            eflags: PLAIN_EFLAGS,
            ..self.base
        }
    }

    /// From here on the thread lives on if its tracer dies.
    pub fn spare(&self) -> Result<(), RemoteError> {
        Ok(self.thread.set_options(0)?)
    }

    /// Lets the thread go.
    pub fn detach(self) -> Result<(), RemoteError> {
        Ok(self.thread.detach(0)?)
    }
}

/// Memory of a child under remote control.
#[derive(Debug)]
pub struct RemoteMemory(File);

impl RemoteMemory {
    /// Opens the memory of `tid`, a tracee of this thread.
    pub fn open(tid: u32) -> io::Result<Self> {
        let mut options = File::options();
        let file = options.read(true).write(true);
        file.open(format!("/proc/{tid}/mem")).map(Self)
    }

    /// Reads `len` bytes.
    pub fn read(&self, address: u64, len: usize) -> Result<Vec<u8>, RemoteError> {
        let mut bytes = vec![0; len];
        let read = self.0.read_exact_at(&mut bytes, address);
        read.map_err(|source| RemoteError::Memory {
            what: "read",
            address,
            len,
            source,
        })?;
        Ok(bytes)
    }

    /// Writes `bytes`, whatever the protection of the area.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), RemoteError> {
        let written = self.0.write_all_at(bytes, address);
        written.map_err(|source| RemoteError::Memory {
            what: "write",
            address,
            len: bytes.len(),
            source,
        })
    }
}

/// Kills the process `pid`, a child or tracee of ours that has not been waited
/// for, and waits until nothing is left of it that is ours to wait for.
pub fn kill_and_reap(pid: u32) {
    // SAFETY: kill takes numbers only. The pid cannot have been reused, as
    // nobody has waited for the process.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
    // The leader's end is told only once every other traced thread has been
    // waited for.
    for tid in threads(pid).into_iter().filter(|&tid| tid != pid) {
        wait_for_end(tid);
    }
    wait_for_end(pid);
}

fn threads(pid: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect()
}

fn wait_for_end(tid: u32) {
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let ret = unsafe { libc::waitpid(tid as i32, &raw mut status, libc::__WALL) };
        let interrupted = io::Error::last_os_error().raw_os_error() == Some(libc::EINTR);
        match ret {
            -1 if interrupted => {}
            -1 => return,
            _ if libc::WIFSTOPPED(status) => {}
            _ => return,
        }
    }
}
