//! ptrace, typed: [`Running`] threads can be interrupted and waited for,
//! [`Stopped`] ones read, changed and let go.
//!
//! All waits leave the status where it is (WNOWAIT): if we die between a wait
//! and what follows it, a signal about to be delivered is not lost.
//!
//! What can only be read of a stopped thread is in [`super::peek`].
//!
//! ptrace belongs to the thread that attached: when that thread ends, its
//! tracees are let go. Both types are therefore not `Send`.

use std::io;
use std::marker::PhantomData;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use icecore_images::thread::Registers;

use super::fault;

/// Keeps a type on its thread, but lets other threads look at it.
type OneThread = PhantomData<MutexGuard<'static, ()>>;

/// A traced thread that may be running.
#[derive(Debug)]
pub struct Running {
    tid: u32,
    one_thread: OneThread,
}

/// A traced thread that stands still until it is resumed.
#[derive(Debug)]
pub struct Stopped {
    tid: u32,
    one_thread: OneThread,
}

/// What a thread stopped for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// PTRACE_EVENT_STOP: interrupted, attached as a new child, or in a
    /// group-stop, whose signal is then given.
    Event {
        /// SIGSTOP, SIGTSTP, SIGTTIN or SIGTTOU in a group-stop.
        group_stop: Option<u32>,
    },
    /// Entry or exit of a system call (PTRACE_O_TRACESYSGOOD).
    Syscall,
    /// A signal is about to be delivered.
    Signal(u32),
    /// Another PTRACE_EVENT_*.
    Other(u32),
}

/// A thread is gone: ended, or killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("thread {tid} has ended")]
pub struct Gone {
    /// The thread.
    pub tid: u32,
}

/// A ptrace request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The thread ended.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// The kernel refused.
    #[error("ptrace {request} on thread {tid}")]
    Request {
        /// The request.
        request: &'static str,
        /// The thread.
        tid: u32,
        /// Its error.
        #[source]
        source: io::Error,
    },
    /// It did not stop in time.
    #[error("thread {tid} did not stop within {} ms", .limit.as_millis())]
    Timeout {
        /// The thread.
        tid: u32,
        /// The limit.
        limit: Duration,
    },
    /// It stopped for something nobody asked for.
    #[error("thread {tid} stopped unexpectedly: {stop:?}")]
    Unexpected {
        /// The thread.
        tid: u32,
        /// For what.
        stop: Stop,
    },
}

impl TraceError {
    /// Whether the thread has ended.
    pub fn is_gone(&self) -> bool {
        matches!(self, TraceError::Gone(_))
    }
}

/// How a stopped thread goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// PTRACE_CONT with a signal (0: none).
    Cont(u32),
    /// PTRACE_SYSCALL with a signal (0: none).
    Syscall(u32),
}

/// One raw request; `data` is a number or an address of ours, by request.
fn raw(request: Request, tid: u32, addr: u64, data: u64) -> Result<u64, TraceError> {
    fault::point(fault::Kind::Ptrace);
    // SAFETY: every caller in this module passes, for a request that writes to
    // or reads from our memory, the address of a live value of the size that
    // the request uses. (The raw call, unlike libc's wrapper, also passes the
    // address for PEEK requests.)
    let ret = unsafe { libc::syscall(libc::SYS_ptrace, request.0, tid, addr, data) };
    if ret >= 0 {
        return Ok(ret as u64);
    }
    let source = io::Error::last_os_error();
    if source.raw_os_error() == Some(libc::ESRCH) {
        return Err(Gone { tid }.into());
    }
    Err(TraceError::Request {
        request: request.1,
        tid,
        source,
    })
}

/// A request's number and its name for messages.
#[derive(Clone, Copy)]
struct Request(libc::c_uint, &'static str);

const SEIZE: Request = Request(libc::PTRACE_SEIZE, "seize");
const INTERRUPT: Request = Request(libc::PTRACE_INTERRUPT, "interrupt");
const CONT: Request = Request(libc::PTRACE_CONT, "cont");
const SYSCALL: Request = Request(libc::PTRACE_SYSCALL, "syscall");
const DETACH: Request = Request(libc::PTRACE_DETACH, "detach");
const SETOPTIONS: Request = Request(libc::PTRACE_SETOPTIONS, "setoptions");
const GETEVENTMSG: Request = Request(libc::PTRACE_GETEVENTMSG, "geteventmsg");
const GETREGS: Request = Request(libc::PTRACE_GETREGS, "getregs");
const SETREGS: Request = Request(libc::PTRACE_SETREGS, "setregs");
const SETREGSET: Request = Request(libc::PTRACE_SETREGSET, "setregset");
const SETSIGMASK: Request = Request(libc::PTRACE_SETSIGMASK, "setsigmask");
const POKEDATA: Request = Request(libc::PTRACE_POKEDATA, "pokedata");
const NT_X86_XSTATE: u64 = 0x202;

impl Running {
    /// PTRACE_SEIZE. The thread goes on running. `options` are PTRACE_O_*;
    /// PTRACE_O_TRACESYSGOOD is always added.
    pub fn seize(tid: u32, options: u32) -> Result<Running, TraceError> {
        let options = options as u64 | libc::PTRACE_O_TRACESYSGOOD as u64;
        raw(SEIZE, tid, 0, options)?;
        Ok(Running::assume(tid))
    }

    /// A thread that the kernel attached to us by itself (PTRACE_O_TRACECLONE
    /// and its like).
    pub fn assume(tid: u32) -> Running {
        Running {
            tid,
            one_thread: PhantomData,
        }
    }

    /// Its thread id.
    pub fn tid(&self) -> u32 {
        self.tid
    }

    /// PTRACE_INTERRUPT: it will stop with [`Stop::Event`].
    pub fn interrupt(&self) -> Result<(), TraceError> {
        raw(INTERRUPT, self.tid, 0, 0).map(drop)
    }

    /// Waits for its next stop.
    pub fn wait(self) -> Result<(Stopped, Stop), TraceError> {
        match wait_for(self.tid, true)? {
            Some(stop) => Ok((self.stopped(), stop)),
            None => Err(Gone { tid: self.tid }.into()),
        }
    }

    /// Looks whether it has stopped.
    pub fn try_wait(self) -> Result<Result<(Stopped, Stop), Running>, TraceError> {
        match wait_for(self.tid, false)? {
            Some(stop) => Ok(Ok((self.stopped(), stop))),
            None => Ok(Err(self)),
        }
    }

    /// Waits for its next stop until `deadline`; a thread that does not stop
    /// is given back.
    pub fn wait_until(
        mut self,
        deadline: Instant,
    ) -> Result<Result<(Stopped, Stop), Running>, TraceError> {
        let mut pause = Duration::from_micros(10);
        loop {
            match self.try_wait()? {
                Ok(stopped) => return Ok(Ok(stopped)),
                Err(running) => self = running,
            }
            if Instant::now() >= deadline {
                return Ok(Err(self));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(1));
        }
    }

    fn stopped(self) -> Stopped {
        Stopped {
            tid: self.tid,
            one_thread: PhantomData,
        }
    }
}

impl Stopped {
    /// Its thread id.
    pub fn tid(&self) -> u32 {
        self.tid
    }

    /// Lets it go on, still traced.
    pub fn resume(self, how: Resume) -> Result<Running, TraceError> {
        self.resume_raw(how)?;
        Ok(Running::assume(self.tid))
    }

    /// Lets it go on and waits for its next stop.
    pub fn resume_to_stop(&mut self, how: Resume) -> Result<Stop, TraceError> {
        self.resume_raw(how)?;
        wait_for(self.tid, true)?.ok_or(Gone { tid: self.tid }.into())
    }

    fn resume_raw(&self, how: Resume) -> Result<(), TraceError> {
        let (request, signal) = match how {
            Resume::Cont(signal) => (CONT, signal),
            Resume::Syscall(signal) => (SYSCALL, signal),
        };
        raw(request, self.tid, 0, u64::from(signal)).map(drop)
    }

    /// Lets it go for good, with a signal (0: none).
    pub fn detach(self, signal: u32) -> Result<(), TraceError> {
        raw(DETACH, self.tid, 0, u64::from(signal)).map(drop)
    }

    /// PTRACE_INTERRUPT: it stops with [`Stop::Event`] on its way back to user
    /// mode, once resumed.
    pub fn interrupt(&self) -> Result<(), TraceError> {
        raw(INTERRUPT, self.tid, 0, 0).map(drop)
    }

    /// PTRACE_SETOPTIONS, PTRACE_O_TRACESYSGOOD added.
    pub fn set_options(&self, options: u32) -> Result<(), TraceError> {
        let options = options as u64 | libc::PTRACE_O_TRACESYSGOOD as u64;
        raw(SETOPTIONS, self.tid, 0, options).map(drop)
    }

    /// PTRACE_GETEVENTMSG: for a clone, the new thread's id.
    pub fn event_message(&self) -> Result<u64, TraceError> {
        let mut message = 0u64;
        raw(GETEVENTMSG, self.tid, 0, &raw mut message as u64)?;
        Ok(message)
    }

    /// General registers.
    pub fn registers(&self) -> Result<Registers, TraceError> {
        let mut words = [0u64; 27];
        raw(GETREGS, self.tid, 0, words.as_mut_ptr() as u64)?;
        Ok(from_words(&words))
    }

    /// Sets the general registers. Raw registers of an interrupted call (an
    /// -ERESTART* in `rax`) only at [`Stop::Event`]: elsewhere the thread sees
    /// them.
    pub fn set_registers(&mut self, registers: &Registers) -> Result<(), TraceError> {
        let words = to_words(registers);
        raw(SETREGS, self.tid, 0, words.as_ptr() as u64).map(drop)
    }

    /// Sets the XSAVE area.
    pub fn set_xstate(&mut self, area: &[u8]) -> Result<(), TraceError> {
        let iov = libc::iovec {
            iov_base: area.as_ptr().cast_mut().cast(),
            iov_len: area.len(),
        };
        raw(SETREGSET, self.tid, NT_X86_XSTATE, &raw const iov as u64).map(drop)
    }

    /// Sets the blocked signals (SIGKILL and SIGSTOP are ignored).
    pub fn set_signal_mask(&mut self, mask: u64) -> Result<(), TraceError> {
        raw(SETSIGMASK, self.tid, 8, &raw const mask as u64).map(drop)
    }

    /// Writes a word, whatever the page's protection says.
    pub fn poke(&mut self, address: u64, word: u64) -> Result<(), TraceError> {
        raw(POKEDATA, self.tid, address, word).map(drop)
    }
}

/// Waits for a stop without consuming it; `None` where it has not stopped and
/// `block` is false.
fn wait_for(tid: u32, block: bool) -> Result<Option<Stop>, TraceError> {
    let flags = libc::WEXITED
        | libc::WSTOPPED
        | libc::WNOWAIT
        | libc::__WALL
        | if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: siginfo_t is plain data, for which zeros are valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is a live siginfo_t.
        let ret = unsafe { libc::waitid(libc::P_PID, tid, &raw mut info, flags) };
        if ret != 0 {
            let source = io::Error::last_os_error();
            match source.raw_os_error() {
                Some(libc::EINTR) => continue,
                // Not (or no longer) ours to wait for: a thread that was not
                // its task's leader leaves nothing behind when it ends.
                Some(libc::ECHILD) => return Err(Gone { tid }.into()),
                _ => {
                    return Err(TraceError::Request {
                        request: "wait",
                        tid,
                        source,
                    });
                }
            }
        }
        // SAFETY: waitid fills the fields of SIGCHLD's siginfo.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if pid == 0 {
            return Ok(None);
        }
        return match info.si_code {
            libc::CLD_TRAPPED | libc::CLD_STOPPED => Ok(Some(decode(status as u32))),
            _ => Err(Gone { tid }.into()),
        };
    }
}

/// Tells the parent of a tracee that has ended, which its tracer keeps it from
/// until then. Does nothing where it has not.
pub fn reap(tid: u32) {
    if !matches!(wait_for(tid, false), Err(TraceError::Gone(_))) {
        return;
    }
    // SAFETY: no status is asked for.
    unsafe {
        let flags = libc::__WALL | libc::WNOHANG;
        libc::waitpid(tid as libc::pid_t, std::ptr::null_mut(), flags);
    }
}

fn decode(status: u32) -> Stop {
    let signal = status & 0xff;
    match status >> 8 {
        0 if signal == libc::SIGTRAP as u32 | 0x80 => Stop::Syscall,
        0 => Stop::Signal(signal),
        event if event == libc::PTRACE_EVENT_STOP as u32 => Stop::Event {
            group_stop: (signal != libc::SIGTRAP as u32).then_some(signal),
        },
        event => Stop::Other(event),
    }
}

macro_rules! words {
    ($($field:ident),+) => {
        fn from_words(words: &[u64; 27]) -> Registers {
            let [$($field),+] = *words;
            Registers { $($field),+ }
        }

        fn to_words(r: &Registers) -> [u64; 27] {
            [$(r.$field),+]
        }
    };
}

words!(
    r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax, rip, cs,
    eflags, rsp, ss, fs_base, gs_base, ds, es, fs, gs
);
