//! Remote control of a child under restore, one thread of it: single system
//! calls through any `syscall` instruction, scripts through a small runner,
//! final registers.
//!
//! Such a child has no life of its own yet: it dies with its tracer
//! (PTRACE_O_EXITKILL), all its signals are blocked, and whatever it holds in
//! registers is ours. None of the care that a living target needs applies.

use std::fs::File;
use std::os::unix::fs::FileExt;

use icecore_images::thread::Registers;
use rustix::io::Errno;

const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;
const NT_X86_XSTATE: u64 = 0x202;
const GET_RSEQ_CONFIGURATION: u32 = 0x420f;
const SUSPEND_SECCOMP: u64 = 1 << 21;
/// `orig_rax` of a thread that is in no system call.
const NO_CALL: u64 = u64::MAX;
/// Direction and trap flag clear, interrupts on: how a script starts.
const PLAIN_EFLAGS: u64 = 0x202;

/// A thread under remote control, stopped.
#[derive(Debug)]
pub struct Remote {
    tid: u32,
    base: Registers,
}

/// Remote control failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// A ptrace request failed.
    #[error("ptrace {request} of thread {tid}")]
    Ptrace {
        /// What was asked.
        request: &'static str,
        /// The thread.
        tid: u32,
        /// Why it failed.
        #[source]
        errno: Errno,
    },
    /// The thread has ended.
    #[error("thread {tid} ended unexpectedly ({how})")]
    Ended {
        /// The thread.
        tid: u32,
        /// How.
        how: String,
    },
    /// The thread got a signal that it could not have got.
    #[error("thread {tid} was hit by signal {signal} at {rip:#x}")]
    Hit {
        /// The thread.
        tid: u32,
        /// The signal.
        signal: i32,
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
        errno: Errno,
    },
}

/// A stop of a remote-controlled thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Entry or exit of a system call.
    Syscall,
    /// PTRACE_EVENT_*.
    Event(i32),
    /// Before a signal is delivered.
    Signal(i32),
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

/// Which of a tracee's calls stop it while it runs a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// None: the breakpoint at the script's end does. It resets the child's
    /// action for SIGTRAP.
    Fast,
    /// Every one: the script ends at its last call, whose result is not written
    /// back, and nothing is disturbed.
    Careful,
}

/// `struct ptrace_rseq_configuration`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RseqRegistration {
    pub address: u64,
    pub len: u32,
    pub signature: u32,
}

impl Remote {
    /// Takes over the child `pid`, which dies with us from here on, as do the
    /// threads and processes it creates; they are attached at once.
    pub fn seize(pid: u32, suspend_seccomp: bool) -> Result<Self, RemoteError> {
        let mut options = libc::PTRACE_O_EXITKILL
            | libc::PTRACE_O_TRACESYSGOOD
            | libc::PTRACE_O_TRACECLONE
            | libc::PTRACE_O_TRACEFORK;
        if suspend_seccomp {
            options |= SUSPEND_SECCOMP as i32;
        }
        request("SEIZE", libc::PTRACE_SEIZE, pid, 0, options as u64)?;
        request("INTERRUPT", libc::PTRACE_INTERRUPT, pid, 0, 0)?;
        Self::adopt(pid)
    }

    /// Waits for the first stop of a thread that was attached at its creation.
    pub fn adopt(tid: u32) -> Result<Self, RemoteError> {
        let mut remote = Self {
            tid,
            base: Registers::default(),
        };
        remote.wait_for_event_stop()?;
        remote.base = remote.registers()?;
        Ok(remote)
    }

    /// Its thread id.
    pub fn tid(&self) -> u32 {
        self.tid
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
        request("INTERRUPT", libc::PTRACE_INTERRUPT, self.tid, 0, 0)?;
        self.finish_syscall()
    }

    fn enter_syscall(&mut self, at: u64, nr: u32, args: &[u64]) -> Result<(), RemoteError> {
        let mut six = [0; 6];
        six[..args.len()].copy_from_slice(args);
        let registers = Registers {
            rax: u64::from(nr),
            rdi: six[0],
            rsi: six[1],
            rdx: six[2],
            r10: six[3],
            r8: six[4],
            r9: six[5],
            rip: at,
            ..self.plain()
        };
        self.set_registers(&registers)?;
        self.to_syscall_stop().map(|_| ())
    }

    fn finish_syscall(&mut self) -> Result<Returned, RemoteError> {
        let created = self.to_syscall_stop()?;
        Ok(Returned {
            value: self.registers()?.rax as i64,
            created,
        })
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
        self.set_registers(&registers)?;
        match pace {
            Pace::Fast => self.to_breakpoint(),
            Pace::Careful => self.to_end_of_call(calls),
        }
    }

    fn to_breakpoint(&mut self) -> Result<(), RemoteError> {
        loop {
            self.resume(libc::PTRACE_CONT)?;
            match self.wait()? {
                Stop::Signal(libc::SIGTRAP) => return Ok(()),
                Stop::Signal(signal) => self.refuse_fault(signal)?,
                Stop::Syscall | Stop::Event(_) => {}
            }
        }
    }

    /// Stops at the exit of the script's call number `calls`, or at the
    /// breakpoint that a failing call leads to.
    fn to_end_of_call(&mut self, calls: usize) -> Result<(), RemoteError> {
        let mut stops = 2 * calls;
        while stops > 0 {
            self.resume(libc::PTRACE_SYSCALL)?;
            match self.wait()? {
                Stop::Syscall => stops -= 1,
                Stop::Signal(libc::SIGTRAP) => return Ok(()),
                Stop::Signal(signal) => self.refuse_fault(signal)?,
                Stop::Event(_) => {}
            }
        }
        Ok(())
    }

    /// Goes on until the next syscall stop; says what was created on the way.
    fn to_syscall_stop(&mut self) -> Result<Option<u32>, RemoteError> {
        let mut created = None;
        loop {
            self.resume(libc::PTRACE_SYSCALL)?;
            match self.wait()? {
                Stop::Syscall => return Ok(created),
                Stop::Event(libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK) => {
                    created = Some(self.event_message()? as u32);
                }
                Stop::Event(_) => {}
                Stop::Signal(signal) => self.refuse_fault(signal)?,
            }
        }
    }

    /// Goes on to a stop at which no system call is under way any more, without
    /// an instruction of the thread's being run. Raw registers that restart a
    /// call may be put back there.
    pub fn to_rest(&mut self) -> Result<(), RemoteError> {
        request("INTERRUPT", libc::PTRACE_INTERRUPT, self.tid, 0, 0)?;
        self.resume(libc::PTRACE_CONT)?;
        self.wait_for_event_stop()
    }

    fn wait_for_event_stop(&mut self) -> Result<(), RemoteError> {
        loop {
            match self.wait()? {
                Stop::Event(libc::PTRACE_EVENT_STOP) => return Ok(()),
                Stop::Signal(signal) => self.refuse_fault(signal)?,
                Stop::Syscall | Stop::Event(_) => {}
            }
            self.resume(libc::PTRACE_CONT)?;
        }
    }

    /// Signals from outside that cannot be blocked are dropped; faults of the
    /// thread itself end the restore.
    fn refuse_fault(&mut self, signal: i32) -> Result<(), RemoteError> {
        match signal {
            libc::SIGSTOP => Ok(()),
            _ => Err(RemoteError::Hit {
                tid: self.tid,
                signal,
                rip: self.registers()?.rip,
            }),
        }
    }

    fn plain(&self) -> Registers {
        Registers {
            orig_rax: NO_CALL,
            eflags: PLAIN_EFLAGS,
            ..self.base
        }
    }

    fn resume(&self, how: libc::c_uint) -> Result<(), RemoteError> {
        request("CONT", how, self.tid, 0, 0)
    }

    fn wait(&self) -> Result<Stop, RemoteError> {
        let status = wait_status(self.tid)?;
        if !libc::WIFSTOPPED(status) {
            return Err(RemoteError::Ended {
                tid: self.tid,
                how: describe_end(status),
            });
        }
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        Ok(match (event, signal) {
            (0, SYSCALL_STOP) => Stop::Syscall,
            (0, signal) => Stop::Signal(signal),
            (event, _) => Stop::Event(event),
        })
    }

    fn event_message(&self) -> Result<u64, RemoteError> {
        let mut message = 0_u64;
        let to = &raw mut message as u64;
        request("GETEVENTMSG", libc::PTRACE_GETEVENTMSG, self.tid, 0, to)?;
        Ok(message)
    }

    /// Reads the general registers.
    pub fn registers(&self) -> Result<Registers, RemoteError> {
        let mut raw = RawRegisters([0; 27]);
        let to = &raw mut raw as u64;
        request("GETREGS", libc::PTRACE_GETREGS, self.tid, 0, to)?;
        Ok(raw.into())
    }

    /// Sets the general registers.
    pub fn set_registers(&self, registers: &Registers) -> Result<(), RemoteError> {
        let raw = RawRegisters::from(registers);
        let from = &raw const raw as u64;
        request("SETREGS", libc::PTRACE_SETREGS, self.tid, 0, from)
    }

    /// Reads the extended state, in the standard XSAVE format.
    pub fn xstate(&self) -> Result<Vec<u8>, RemoteError> {
        let mut area = vec![0_u8; 64 << 10];
        let mut vec = libc::iovec {
            iov_base: area.as_mut_ptr().cast(),
            iov_len: area.len(),
        };
        let (kind, to) = (NT_X86_XSTATE, &raw mut vec as u64);
        request("GETREGSET", libc::PTRACE_GETREGSET, self.tid, kind, to)?;
        area.truncate(vec.iov_len);
        Ok(area)
    }

    /// Sets the extended state; `area` is as long as [`Self::xstate`]'s.
    pub fn set_xstate(&self, area: &[u8]) -> Result<(), RemoteError> {
        let vec = libc::iovec {
            iov_base: area.as_ptr().cast_mut().cast(),
            iov_len: area.len(),
        };
        let (kind, from) = (NT_X86_XSTATE, &raw const vec as u64);
        request("SETREGSET", libc::PTRACE_SETREGSET, self.tid, kind, from)
    }

    /// Sets the mask of blocked signals.
    pub fn set_signal_mask(&self, mask: u64) -> Result<(), RemoteError> {
        let from = &raw const mask as u64;
        request("SETSIGMASK", SETSIGMASK, self.tid, 8, from)
    }

    /// The rseq area registered for the thread, where there is one and the
    /// kernel tells.
    pub fn rseq(&self) -> Option<RseqRegistration> {
        // address, size, signature, flags, pad
        let mut raw = [0_u32; 6];
        let (len, to) = (size_of_val(&raw) as u64, &raw mut raw as u64);
        request("GET_RSEQ_CONFIGURATION", GET_RSEQ_CONFIGURATION, self.tid, len, to).ok()?;
        let address = u64::from(raw[0]) | u64::from(raw[1]) << 32;
        (address != 0).then_some(RseqRegistration {
            address,
            len: raw[2],
            signature: raw[3],
        })
    }

    /// From here on the thread lives on if its tracer dies.
    pub fn spare(&self) -> Result<(), RemoteError> {
        request("SETOPTIONS", libc::PTRACE_SETOPTIONS, self.tid, 0, 0)
    }

    /// Lets the thread go.
    pub fn detach(self) -> Result<(), RemoteError> {
        request("DETACH", libc::PTRACE_DETACH, self.tid, 0, 0)
    }

    /// Waits until the thread has ended by an exit it was told to make.
    pub fn exit(mut self, at: u64, status: u64) -> Result<(), RemoteError> {
        self.enter_syscall(at, libc::SYS_exit as u32, &[status])?;
        self.resume(libc::PTRACE_CONT)
    }
}

/// Memory of a child under remote control.
#[derive(Debug)]
pub struct RemoteMemory(File);

impl RemoteMemory {
    /// Opens the memory of `tid`, a tracee of this thread.
    pub fn open(tid: u32) -> std::io::Result<Self> {
        File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{tid}/mem"))
            .map(Self)
    }

    /// Reads `len` bytes.
    pub fn read(&self, address: u64, len: usize) -> Result<Vec<u8>, RemoteError> {
        let mut bytes = vec![0; len];
        self.0
            .read_exact_at(&mut bytes, address)
            .map_err(memory_error("read", address, len))?;
        Ok(bytes)
    }

    /// Writes `bytes`, whatever the protection of the area.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), RemoteError> {
        self.0
            .write_all_at(bytes, address)
            .map_err(memory_error("write", address, bytes.len()))
    }
}

fn memory_error(
    what: &'static str,
    address: u64,
    len: usize,
) -> impl FnOnce(std::io::Error) -> RemoteError {
    move |e| RemoteError::Memory {
        what,
        address,
        len,
        errno: Errno::from_io_error(&e).unwrap_or(Errno::IO),
    }
}

/// Kills the process `pid`, a child or tracee of ours, and waits until it is
/// gone. `reap` is set if it is our child rather than our caller's.
pub fn kill_and_reap(pid: u32) {
    // SAFETY: kill takes numbers only; the pid is that of a tracee or child
    // that has not been waited for, so it cannot have been reused.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
    while let Ok(status) = wait_status(pid) {
        if !libc::WIFSTOPPED(status) {
            return;
        }
    }
}

fn wait_status(tid: u32) -> Result<i32, RemoteError> {
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        let ret = unsafe { libc::waitpid(tid as i32, &raw mut status, libc::__WALL) };
        if ret >= 0 {
            return Ok(status);
        }
        let errno = last_errno();
        if errno != Errno::INTR {
            return Err(RemoteError::Ptrace {
                request: "wait",
                tid,
                errno,
            });
        }
    }
}

fn describe_end(status: i32) -> String {
    if libc::WIFSIGNALED(status) {
        format!("killed by signal {}", libc::WTERMSIG(status))
    } else {
        format!("exit status {}", libc::WEXITSTATUS(status))
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

const SETSIGMASK: libc::c_uint = 0x420b;

fn request(
    name: &'static str,
    what: libc::c_uint,
    tid: u32,
    address: u64,
    data: u64,
) -> Result<(), RemoteError> {
    // SAFETY: every caller in this file passes either numbers or the address
    // of a live local of the type and length that the request expects.
    let ret = unsafe { libc::ptrace(what, tid as libc::pid_t, address, data) };
    if ret >= 0 {
        return Ok(());
    }
    Err(RemoteError::Ptrace {
        request: name,
        tid,
        errno: last_errno(),
    })
}

/// `struct user_regs_struct`, word by word.
#[repr(C)]
struct RawRegisters([u64; 27]);

impl From<RawRegisters> for Registers {
    fn from(RawRegisters(w): RawRegisters) -> Self {
        let [
            r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax, rip,
            cs, eflags, rsp, ss, fs_base, gs_base, ds, es, fs, gs,
        ] = w;
        Registers {
            r15,
            r14,
            r13,
            r12,
            rbp,
            rbx,
            r11,
            r10,
            r9,
            r8,
            rax,
            rcx,
            rdx,
            rsi,
            rdi,
            orig_rax,
            rip,
            cs,
            eflags,
            rsp,
            ss,
            fs_base,
            gs_base,
            ds,
            es,
            fs,
            gs,
        }
    }
}

impl From<&Registers> for RawRegisters {
    fn from(r: &Registers) -> Self {
        RawRegisters([
            r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10, r.r9, r.r8, r.rax, r.rcx,
            r.rdx, r.rsi, r.rdi, r.orig_rax, r.rip, r.cs, r.eflags, r.rsp, r.ss, r.fs_base,
            r.gs_base, r.ds, r.es, r.fs, r.gs,
        ])
    }
}
