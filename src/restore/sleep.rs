//! Interrupted system calls: how a thread that slept at the dump sleeps on.
//!
//! - A call that the kernel restarts by itself (-ERESTARTSYS and its like in
//!   `rax`) needs its raw registers only.
//! - A call that goes on through a restart block (-ERESTART_RESTARTBLOCK) is
//!   made again by the thread with the time that remains, an interruption
//!   already pending: it returns at once and leaves a restart block of the
//!   kernel's own making, with the thread's own pointers in it.
//! - A call that the kernel never restarts had returned -EINTR because of the
//!   freeze. It is set up to be made once more, with the time that remains.

use icecore_images::thread::{Interrupted, Registers, ThreadState};

use super::child::Process;
use crate::error::RestoreError;
use crate::tracer::remote::{Remote, RemoteError};

const ERESTART_RESTARTBLOCK: i64 = -516;
const EINTR: i64 = -4;
/// Length of a `syscall` instruction.
const SYSCALL_LEN: u64 = 2;
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
        libc::SYS_rt_sigtimedwait => Timeout::Timespec(2),
        libc::SYS_io_getevents | SYS_IO_PGETEVENTS => Timeout::Timespec(4),
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
    remote: &mut Remote,
    state: &ThreadState,
) -> Result<Registers, RestoreError> {
    let registers = state.registers;
    let remaining = match state.interrupted {
        Interrupted::No => return Ok(registers),
        Interrupted::Reissue => None,
        Interrupted::Timed { remaining_ns } => remaining_ns,
    };
    match registers.rax as i64 {
        ERESTART_RESTARTBLOCK => restart_block(process, remote, state, remaining),
        EINTR => issue_again(process, state, remaining),
        _ => Ok(registers),
    }
}

/// Lets the thread make its call again, so that the kernel has a restart block
/// for it.
fn restart_block(
    process: &Process,
    remote: &mut Remote,
    state: &ThreadState,
    remaining: Option<u64>,
) -> Result<Registers, RestoreError> {
    let mut registers = state.registers;
    let what = format!("issue the interrupted call of thread {} again", state.tid);
    let call = registers.orig_rax as i64;
    let mut args = arguments(&registers);
    if let Some(remaining) = remaining {
        let scratch = process.blob()?.script();
        let timeout = timeout_of(call, &args);
        let place = set_timeout(&mut args, timeout, remaining, scratch);
        if let Some(timespec) = place {
            process.write(&what, scratch, &timespec)?;
        }
    }
    let returned = remote.interrupted_syscall(process.gate(), call as u32, &args);
    // A call that has ended meanwhile gives the thread its result.
    registers.rax = returned.map_err(process.remote(&what))?.value as u64;
    if registers.rax as i64 != ERESTART_RESTARTBLOCK {
        tracing::debug!(tid = state.tid, rax = registers.rax as i64, "interrupted call ended");
    }
    Ok(registers)
}

/// Sets the thread up to make its call once more as its first instruction.
fn issue_again(
    process: &Process,
    state: &ThreadState,
    remaining: Option<u64>,
) -> Result<Registers, RestoreError> {
    let mut registers = state.registers;
    let call = registers.orig_rax;
    if (call as i64) < 0 {
        return Ok(registers);
    }
    let mut args = arguments(&registers);
    if let Some(remaining) = remaining {
        let scratch = (registers.rsp - BELOW_RED_ZONE) & !15;
        let timeout = timeout_of(call as i64, &args);
        let place = set_timeout(&mut args, timeout, remaining, scratch);
        let written = place.map(|timespec| process.memory.write(scratch, &timespec));
        if let Some(Err(RemoteError::Memory { .. })) = written {
            // No stack below: the wait starts anew.
            args = arguments(&registers);
        }
    }
    let [rdi, rsi, rdx, r10, r8, r9] = args;
    registers = Registers {
        rdi,
        rsi,
        rdx,
        r10,
        r8,
        r9,
        rax: call,
        orig_rax: u64::MAX,
        rip: registers.rip.wrapping_sub(SYSCALL_LEN),
        ..registers
    };
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
        assert_eq!(set_timeout(&mut args, Timeout::Millis(2), 1_000_001, 0), None);
        assert_eq!(args[2], 2);
        let mut endless = [0, 0, u64::from(u32::MAX), 0, 0, 0];
        set_timeout(&mut endless, Timeout::Millis(2), 7, 0);
        assert_eq!(endless[2] as i32, -1);
    }

    #[test]
    fn absolute_waits_are_left_alone() {
        let absolute = [1, 1, 0x1000, 0, 0, 0];
        assert_eq!(timeout_of(libc::SYS_clock_nanosleep, &absolute), Timeout::None);
        let bitset = [0, 9, 0, 0x1000, 0, 0];
        assert_eq!(timeout_of(libc::SYS_futex, &bitset), Timeout::None);
    }
}
