//! System calls that the freeze interrupts.
//!
//! The kernel marks an interrupted call with an -ERESTART* in `rax` and
//! restarts it on the way back to user mode, if `orig_rax` still holds its
//! number. Some calls end with a true EINTR instead; those are marked here as
//! the kernel marks the others, so that it restarts them too, unless a signal
//! with a handler is pending.

use icecore_images::thread::{Interrupted, Registers};
use icecore_parasite::{ASK, ASK_UNTOLD, Home, StubConstants};

use super::allowed::Seccomp;
use super::freeze::{FrozenTask, FrozenThread};
use super::timeout::{SYS_IO_PGETEVENTS, Timeout};
use crate::kernel::proc_text;

/// -ERESTARTSYS: restarted, unless a handler without SA_RESTART runs.
pub const ERESTARTSYS: i64 = -512;
/// -ERESTARTNOINTR: always restarted.
pub const ERESTARTNOINTR: i64 = -513;
/// -ERESTARTNOHAND: restarted, unless a handler runs.
pub const ERESTARTNOHAND: i64 = -514;
/// -ERESTART_RESTARTBLOCK: continued by restart_syscall, unless a handler runs.
pub const ERESTART_RESTARTBLOCK: i64 = -516;

const EINTR: i64 = -(libc::EINTR as i64);
/// Bytes of the `syscall` instruction.
const SYSCALL_LEN: u64 = 2;

/// The call that was interrupted and will be restarted, as (number, -ERESTART*).
pub fn restarted_call(r: &Registers) -> Option<(i64, i64)> {
    let (nr, ret) = (r.orig_rax as i64, r.rax as i64);
    let marked = matches!(ret, -514..=-512 | ERESTART_RESTARTBLOCK);
    (nr >= 0 && marked).then_some((nr, ret))
}

/// Marks a call that the freeze has ended with EINTR, and that the kernel never
/// restarts by itself, to be restarted where no handler runs. Says whether it
/// has changed anything.
pub(super) fn undo_eintr(r: &mut Registers) -> bool {
    if r.rax as i64 != EINTR || !never_restarted(r.orig_rax as i64) {
        return false;
    }
    r.rax = ERESTARTNOHAND as u64;
    true
}

/// Calls that a stop ends with EINTR: signal(7)'s list, as experiments on 6.18
/// confirmed it. (The socket calls only with SO_RCVTIMEO or SO_SNDTIMEO; ppoll
/// and select only where the kernel cannot write the time that remains.)
fn never_restarted(nr: i64) -> bool {
    matches!(
        nr,
        libc::SYS_epoll_wait
            | libc::SYS_epoll_pwait
            | libc::SYS_epoll_pwait2
            | libc::SYS_ppoll
            | libc::SYS_pselect6
            | libc::SYS_select
            | libc::SYS_rt_sigtimedwait
            | libc::SYS_semop
            | libc::SYS_semtimedop
            | libc::SYS_io_getevents
            | SYS_IO_PGETEVENTS
            | libc::SYS_io_uring_enter
            | libc::SYS_accept
            | libc::SYS_accept4
            | libc::SYS_connect
            | libc::SYS_read
            | libc::SYS_readv
            | libc::SYS_recvfrom
            | libc::SYS_recvmsg
            | libc::SYS_recvmmsg
            | libc::SYS_write
            | libc::SYS_writev
            | libc::SYS_sendto
            | libc::SYS_sendmsg
            | libc::SYS_sendmmsg
    )
}

/// The thread's registers for its image. A call that restart_syscall continues
/// is written down as what it is: the kernel's memory of it stays behind.
pub fn image_registers(thread: &FrozenThread) -> Registers {
    let mut registers = thread.registers;
    let continued = registers.orig_rax as i64 == libc::SYS_restart_syscall;
    if let Some(asleep) = thread.asleep.filter(|_| continued) {
        registers.orig_rax = asleep.nr as u64;
    }
    registers
}

/// How the call the thread was caught in goes on, for its image.
pub fn classify(task: &FrozenTask, thread: &FrozenThread) -> Interrupted {
    let Some((_, mark)) = restarted_call(&thread.registers) else {
        return Interrupted::No;
    };
    match Timeout::of_call(thread, |at| task.memory.read_u64(at).ok()) {
        Some(timeout) => Interrupted::Timed {
            remaining_ns: timeout.remaining_at_freeze(thread),
        },
        None if mark == ERESTART_RESTARTBLOCK => Interrupted::Timed { remaining_ns: None },
        None => Interrupted::Reissue,
    }
}

/// What the stub has to know to lead this thread home without us.
pub(super) fn way_home(task: &FrozenTask, thread: &FrozenThread, area_len: u64) -> StubConstants {
    let r = &thread.registers;
    let mut constants = StubConstants {
        area_len,
        signal_mask: thread.mask,
        overflow: if r.eflags & (1 << 11) != 0 { 0x7f } else { 0 },
        home: home(r),
        ..notification(thread)
    };
    if let Some((nr, mark)) = restarted_call(r) {
        constants.home.rip = r.rip - SYSCALL_LEN;
        constants.home.rax = match mark {
            ERESTART_RESTARTBLOCK => libc::SYS_restart_syscall as u64,
            _ => nr as u64,
        };
        constants.eintr_rax = EINTR as u64;
        constants.eintr_rip = r.rip;
        let interrupting = interrupting_signals(task, mark) & !thread.mask;
        constants.ask_mask = !interrupting;
        let untold = mark == ERESTARTSYS && task.handlers.is_some_and(|h| !h.told);
        constants.ask = match interrupting {
            0 => 0,
            // A filter might not let the stub ask.
            _ if untold && matches!(thread.seccomp, Seccomp::Off) => ASK_UNTOLD,
            _ => ASK,
        };
    }
    constants
}

/// How the stub tells a tracer that its script has ended: by a signal that the
/// thread ignores and does not block, so that without a tracer it is nothing.
/// With seccomp, or where there is no such signal, the stub's every system call
/// is watched instead.
fn notification(thread: &FrozenThread) -> StubConstants {
    let mut constants = StubConstants {
        all_signals: u64::MAX,
        ..StubConstants::default()
    };
    if let Some(notice) = Notice::choose(thread) {
        constants.all_signals = !(1 << (notice.signal - 1));
        constants.notify = notice.signal;
        constants.tgid = u64::from(notice.tgid);
        constants.tid = u64::from(notice.tid);
    }
    constants
}

struct Notice {
    signal: u64,
    tgid: u32,
    tid: u32,
}

impl Notice {
    fn choose(thread: &FrozenThread) -> Option<Self> {
        if !matches!(thread.seccomp, Seccomp::Off) {
            return None;
        }
        let status = proc_text::read(thread.tid, "status").ok()?;
        let mask = |key| proc_text::hex(proc_text::field(&status, key)?);
        let innermost = |key| {
            let last = proc_text::words(proc_text::field(&status, key)?).last()?;
            proc_text::number(last)
        };
        let meant = mask("SigCgt")? | mask("SigPnd")? | mask("ShdPnd")? | thread.mask;
        let ignored = [libc::SIGURG, libc::SIGWINCH, libc::SIGCHLD];
        let signal = ignored.into_iter().find(|s| meant & (1 << (s - 1)) == 0)?;
        Some(Self {
            signal: signal as u64,
            tgid: innermost("NStgid")?,
            tid: innermost("NSpid")?,
        })
    }
}

/// Signals whose handlers end a call with EINTR rather than have it restarted.
fn interrupting_signals(task: &FrozenTask, mark: i64) -> u64 {
    let Some(handlers) = task.handlers else {
        return 0;
    };
    match mark {
        ERESTARTNOINTR => 0,
        ERESTARTSYS => handlers.caught & !handlers.restarting,
        _ => handlers.caught,
    }
}

/// Whether it depends on flags of a handler how the interrupted call goes on.
pub(super) fn depends_on_handlers(r: &Registers) -> bool {
    restarted_call(r).is_some_and(|(_, mark)| mark == ERESTARTSYS)
}

fn home(r: &Registers) -> Home {
    Home {
        rdi: r.rdi,
        rsi: r.rsi,
        rdx: r.rdx,
        rcx: r.rcx,
        rbx: r.rbx,
        rbp: r.rbp,
        r8: r.r8,
        r9: r.r9,
        r10: r.r10,
        r11: r.r11,
        r12: r.r12,
        r13: r.r13,
        r14: r.r14,
        r15: r.r15,
        rax: r.rax,
        rip: r.rip,
        flags: r.eflags,
    }
}
