//! Interrupted system calls: how a thread that slept at the dump sleeps on.
//!
//! - A call that the kernel restarts by itself (-ERESTARTSYS and its like in
//!   `rax`) needs its raw registers only.
//! - Where its time-out is relative, the call is restarted with the time that
//!   remains instead: a number in a register, or a timespec below the stack's
//!   red zone. That holds as well for a call that went on through a restart
//!   block: while it sleeps, the time left can be told again by another dump,
//!   which a restart block never does.
//! - Where there is no stack below, the thread makes the call again with an
//!   interruption already pending: it returns at once and leaves a restart
//!   block of the kernel's own making.
//!
//! Calls that the kernel never restarts come from the dump marked as if it did.

use icecore_images::mm::MmState;
use icecore_images::thread::{Interrupted, Registers, ThreadState};

use super::child::Process;
use crate::error::RestoreError;
use crate::tracer::interrupted::{ERESTART_RESTARTBLOCK, ERESTARTNOHAND, restarted_call};
use crate::tracer::remote::Remote;

/// Below the stack pointer: the red zone, which is the program's, and room for
/// a timespec, which is nobody's.
const BELOW_RED_ZONE: u64 = 128 + 64;

/// Where a call takes a relative time-out, as an index into its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timeout {
    /// In milliseconds, by value; negative: none.
    Millis(usize),
    /// A pointer to a timespec; 0: none.
    Timespec(usize),
    /// None, or one that is not relative.
    None,
}

fn timeout_of(call: i64, args: &[u64; 6]) -> Timeout {
    match call {
        libc::SYS_nanosleep => Timeout::Timespec(0),
        libc::SYS_clock_nanosleep if args[1] & libc::TIMER_ABSTIME as u64 == 0 => {
            Timeout::Timespec(2)
        }
        libc::SYS_poll => Timeout::Millis(2),
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => Timeout::Millis(3),
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => Timeout::Timespec(3),
        libc::SYS_rt_sigtimedwait | libc::SYS_ppoll => Timeout::Timespec(2),
        libc::SYS_io_getevents | SYS_IO_PGETEVENTS | libc::SYS_pselect6 => Timeout::Timespec(4),
        libc::SYS_futex if args[1] & FUTEX_COMMAND == FUTEX_WAIT => Timeout::Timespec(3),
        _ => Timeout::None,
    }
}

/// The libc crate lacks it.
const SYS_IO_PGETEVENTS: i64 = 333;
const FUTEX_COMMAND: u64 = 0x7f;
const FUTEX_WAIT: u64 = 0;

/// Brings a thread to where its interrupted call goes on, and gives the
/// registers it goes on with.
pub(crate) fn reissue(
    process: &Process,
    mm: &MmState,
    remote: &mut Remote,
    state: &ThreadState,
) -> Result<Registers, RestoreError> {
    let registers = &state.registers;
    let Some((call, mark)) = restarted_call(registers) else {
        return Ok(*registers);
    };
    let rest = match state.interrupted {
        Interrupted::Timed { remaining_ns } => remaining_ns,
        Interrupted::No | Interrupted::Reissue => None,
    };
    match with_rest(process, mm, registers, call, rest)? {
        Some(registers) => Ok(registers),
        None if mark == ERESTART_RESTARTBLOCK => restart_block(process, remote, state, call, rest),
        None => Ok(*registers),
    }
}

/// Registers with which the kernel makes the call again, for the time that
/// remains; `None` where that cannot be said in them.
fn with_rest(
    process: &Process,
    mm: &MmState,
    registers: &Registers,
    call: i64,
    rest: Option<u64>,
) -> Result<Option<Registers>, RestoreError> {
    let mut args = arguments(registers);
    let timeout = timeout_of(call, &args);
    let scratch = registers.rsp.wrapping_sub(BELOW_RED_ZONE) & !15;
    let Some(rest) = rest.filter(|_| timeout != Timeout::None) else {
        return Ok(None);
    };
    if let Some(timespec) = set_timeout(&mut args, timeout, rest, scratch) {
        if !is_writable(mm, scratch, timespec.len() as u64) {
            return Ok(None);
        }
        process.write("write the time that remains", scratch, &timespec)?;
    }
    let [rdi, rsi, rdx, r10, r8, r9] = args;
    Ok(Some(Registers {
        rdi,
        rsi,
        rdx,
        r10,
        r8,
        r9,
        rax: ERESTARTNOHAND as u64,
        ..*registers
    }))
}

fn is_writable(mm: &MmState, at: u64, len: u64) -> bool {
    let wanted = (libc::PROT_READ | libc::PROT_WRITE) as u32;
    let mut areas = mm.vmas.iter().filter(|vma| vma.prot & wanted == wanted);
    areas.any(|vma| vma.start <= at && at <= vma.end - len && !vma.shared)
}

/// Lets the thread make its call again, so that the kernel has a restart block
/// for it.
fn restart_block(
    process: &Process,
    remote: &mut Remote,
    state: &ThreadState,
    call: i64,
    rest: Option<u64>,
) -> Result<Registers, RestoreError> {
    let mut registers = state.registers;
    let what = format!("make call {call} of thread {} again", state.tid);
    let mut args = arguments(&registers);
    if let Some(rest) = rest {
        let scratch = process.blob()?.script();
        let timeout = timeout_of(call, &args);
        if let Some(timespec) = set_timeout(&mut args, timeout, rest, scratch) {
            process.write(&what, scratch, &timespec)?;
        }
    }
    let returned = remote.interrupted_syscall(process.gate(), call as u32, &args);
    // A call that has ended meanwhile gives the thread its result.
    registers.rax = returned.map_err(process.remote(&what))?.value as u64;
    Ok(registers)
}

fn arguments(r: &Registers) -> [u64; 6] {
    [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]
}

/// Replaces a call's time-out by `remaining` nanoseconds; gives the timespec
/// that is to lie at `scratch`, if the call takes one.
fn set_timeout(
    args: &mut [u64; 6],
    timeout: Timeout,
    remaining: u64,
    scratch: u64,
) -> Option<[u8; 16]> {
    match timeout {
        Timeout::Millis(i) if (args[i] as i32) > 0 => {
            args[i] = remaining.div_ceil(1_000_000).min(i32::MAX as u64);
            None
        }
        Timeout::Timespec(i) if args[i] != 0 => {
            args[i] = scratch;
            let mut timespec = [0; 16];
            timespec[..8].copy_from_slice(&(remaining / 1_000_000_000).to_le_bytes());
            timespec[8..].copy_from_slice(&(remaining % 1_000_000_000).to_le_bytes());
            Some(timespec)
        }
        Timeout::Millis(_) | Timeout::Timespec(_) | Timeout::None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timespec_is_replaced_by_the_rest() {
        let mut args = [0x1000, 0x2000, 0, 0, 0, 0];
        let timeout = timeout_of(libc::SYS_nanosleep, &args);
        let timespec = set_timeout(&mut args, timeout, 2_000_000_005, 0x9000).unwrap();
        assert_eq!(args[..2], [0x9000, 0x2000]);
        assert_eq!(timespec[..8], 2_u64.to_le_bytes());
        assert_eq!(timespec[8..], 5_u64.to_le_bytes());
    }

    #[test]
    fn milliseconds_are_rounded_up_and_endless_waits_stay_endless() {
        let mut args = [0, 0, 5000, 0, 0, 0];
        assert_eq!(
            set_timeout(&mut args, Timeout::Millis(2), 1_000_001, 0),
            None
        );
        assert_eq!(args[2], 2);
        let mut endless = [0, 0, u64::from(u32::MAX), 0, 0, 0];
        set_timeout(&mut endless, Timeout::Millis(2), 7, 0);
        assert_eq!(endless[2] as i32, -1);
    }

    #[test]
    fn absolute_waits_are_left_alone() {
        let absolute = [1, 1, 0x1000, 0, 0, 0];
        assert_eq!(
            timeout_of(libc::SYS_clock_nanosleep, &absolute),
            Timeout::None
        );
        let bitset = [0, 9, 0, 0x1000, 0, 0];
        assert_eq!(timeout_of(libc::SYS_futex, &bitset), Timeout::None);
    }
}
