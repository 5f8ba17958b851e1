//! Relative timeouts of system calls a thread sleeps in, and what remains of
//! them.

use std::time::Duration;

use icecore_images::thread::Registers;

use super::freeze::FrozenThread;
use super::rest::Register;

/// A number the libc crate lacks.
pub(super) const SYS_IO_PGETEVENTS: i64 = 333;

/// A finite relative timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timeout {
    whole: Duration,
    /// What the kernel says remained at the freeze.
    rest: Option<Duration>,
}

impl Timeout {
    /// The timeout of the call the thread was interrupted in, where it has a
    /// finite relative one. `read` gives words of the task's memory.
    pub(super) fn of_call(
        thread: &FrozenThread,
        read: impl Fn(u64) -> Option<u64>,
    ) -> Option<Self> {
        let r = &thread.registers;
        let nr = thread.asleep.map_or(r.orig_rax as i64, |a| a.nr);
        // Where it has not ended, the kernel has put the rest in their place.
        if !thread.had_ended && Kept::of_call(nr).is_some() {
            return None;
        }
        let whole = relative(nr, r, &read)?;
        let rest = rest_told(nr, r, &read);
        Some(Self { whole, rest })
    }

    /// Nanoseconds that remained at the freeze, where it is known how long the
    /// thread had slept.
    pub(super) fn remaining_at_freeze(self, thread: &FrozenThread) -> Option<u64> {
        let left = match (self.rest, thread.asleep) {
            (Some(rest), _) => rest,
            // It is known for how long since the last interruption only.
            (None, Some(asleep)) if asleep.continued => return None,
            (None, _) => self.whole.saturating_sub(thread.slept?),
        };
        u64::try_from(left.as_nanos()).ok()
    }

    /// What remains now that time has passed in the freeze.
    pub(super) fn remaining_now(self, thread: &FrozenThread) -> Option<Duration> {
        let passed = thread.slept? + thread.frozen_at.elapsed();
        Some(self.whole.saturating_sub(passed))
    }
}

/// Where a call that is issued again takes its relative time-out.
pub(super) enum Place {
    /// In milliseconds, in this register.
    Millis(Register),
    /// In a timespec this register points at.
    Pointer(Register),
    /// Where the kernel keeps it up to date by itself.
    Kernel,
}

impl Place {
    /// That of a call; `None` where it has no relative time-out.
    pub(super) fn of_call(nr: i64) -> Option<Self> {
        match nr {
            libc::SYS_epoll_wait | libc::SYS_epoll_pwait => Some(Place::Millis(|r| &mut r.r10)),
            libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => Some(Place::Pointer(|r| &mut r.r10)),
            libc::SYS_rt_sigtimedwait | libc::SYS_ppoll => Some(Place::Pointer(|r| &mut r.rdx)),
            libc::SYS_pselect6 => Some(Place::Pointer(|r| &mut r.r8)),
            libc::SYS_io_getevents | SYS_IO_PGETEVENTS => Some(Place::Pointer(|r| &mut r.r8)),
            nr if may_be_relative(nr) => Some(Place::Kernel),
            _ => None,
        }
    }
}

/// A relative time-out that the kernel, when it interrupts the call, replaces
/// by what remains, in the program's own memory.
pub(super) struct Kept {
    /// Where it lies.
    pub(super) at: fn(&Registers) -> u64,
    /// Nanoseconds in one of its smaller unit.
    pub(super) unit: u64,
}

impl Kept {
    /// That of a call.
    pub(super) fn of_call(nr: i64) -> Option<Self> {
        let (at, unit): (fn(&Registers) -> u64, u64) = match nr {
            libc::SYS_ppoll => (|r| r.rdx, 1),
            libc::SYS_pselect6 => (|r| r.r8, 1),
            libc::SYS_select => (|r| r.r8, 1000),
            _ => return None,
        };
        Some(Self { at, unit })
    }

    /// Its bytes, `passed` later.
    pub(super) fn after(&self, bytes: [u8; 16], passed: Duration) -> Option<[u8; 16]> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let nanos = word(8).checked_mul(self.unit)?;
        let rest = Duration::new(word(0), u32::try_from(nanos).ok()?).saturating_sub(passed);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&rest.as_secs().to_le_bytes());
        let small = u64::from(rest.subsec_nanos()) / self.unit;
        bytes[8..].copy_from_slice(&small.to_le_bytes());
        Some(bytes)
    }
}

/// Calls that may have a relative timeout.
pub(super) fn may_be_relative(nr: i64) -> bool {
    matches!(
        nr,
        libc::SYS_poll
            | libc::SYS_epoll_wait
            | libc::SYS_epoll_pwait
            | libc::SYS_epoll_pwait2
            | libc::SYS_ppoll
            | libc::SYS_pselect6
            | libc::SYS_semtimedop
            | libc::SYS_rt_sigtimedwait
            | libc::SYS_io_getevents
            | SYS_IO_PGETEVENTS
            | libc::SYS_nanosleep
            | libc::SYS_clock_nanosleep
            | libc::SYS_futex
    )
}

/// What remains of a sleep that the kernel tells the rest of: it has written
/// that when the sleep was interrupted.
fn rest_told(nr: i64, r: &Registers, read: &impl Fn(u64) -> Option<u64>) -> Option<Duration> {
    let at = match nr {
        libc::SYS_nanosleep => r.rsi,
        libc::SYS_clock_nanosleep => r.r10,
        _ => 0,
    };
    timespec(at, read)
}

fn timespec(at: u64, read: &impl Fn(u64) -> Option<u64>) -> Option<Duration> {
    if at == 0 {
        return None;
    }
    let (sec, nsec) = (read(at)?, read(at + 8)?);
    (nsec < 1_000_000_000).then(|| Duration::new(sec, nsec as u32))
}

/// The whole of a finite relative timeout.
fn relative(nr: i64, r: &Registers, read: &impl Fn(u64) -> Option<u64>) -> Option<Duration> {
    let timespec = |at| timespec(at, read);
    let millis = |ms: u64| {
        let ms = u64::try_from(ms as i32).ok()?;
        Some(Duration::from_millis(ms))
    };
    match nr {
        libc::SYS_poll => millis(r.rdx),
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => millis(r.r10),
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => timespec(r.r10),
        libc::SYS_rt_sigtimedwait | libc::SYS_ppoll => timespec(r.rdx),
        libc::SYS_pselect6 => timespec(r.r8),
        libc::SYS_io_getevents | SYS_IO_PGETEVENTS => timespec(r.r8),
        libc::SYS_nanosleep => timespec(r.rdi),
        libc::SYS_clock_nanosleep if r.rsi & TIMER_ABSTIME == 0 => timespec(r.rdx),
        libc::SYS_futex if is_relative_futex(r.rsi) => timespec(r.r10),
        _ => None,
    }
}

const TIMER_ABSTIME: u64 = 1;

/// FUTEX_WAIT takes a relative time; FUTEX_WAIT_BITSET and the others an
/// absolute one.
fn is_relative_futex(op: u64) -> bool {
    const FUTEX_CMD_MASK: u64 = !(128 | 256);
    const FUTEX_WAIT: u64 = 0;
    op & 0xffff_ffff & FUTEX_CMD_MASK == FUTEX_WAIT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(seconds: u64, small: u64) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&seconds.to_le_bytes());
        bytes[8..].copy_from_slice(&small.to_le_bytes());
        bytes
    }

    #[test]
    fn what_the_kernel_has_left_is_shortened() {
        let kept = |nr| Kept::of_call(nr).unwrap();
        let passed = Duration::from_millis(1_500);
        let poll = kept(libc::SYS_ppoll);
        assert_eq!(poll.after(bytes(2, 7), passed), Some(bytes(0, 500_000_007)));
        assert_eq!(poll.after(bytes(1, 9), passed), Some(bytes(0, 0)));
        let select = kept(libc::SYS_select);
        assert_eq!(select.after(bytes(2, 7), passed), Some(bytes(0, 500_007)));
        // What a program has put there meanwhile need not be a time.
        assert_eq!(select.after(bytes(2, u64::MAX), passed), None);
    }
}
