//! What a thread sleeps in, and for how long it has: read before it is
//! interrupted, because afterwards the kernel does not tell any more.

use std::time::{Duration, Instant};

use icecore_images::thread::Registers;

use crate::kernel::proc_text::{hex, number, read as read_proc, words};
use crate::kernel::stat::Stat;

/// A system call a thread was asleep in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Asleep {
    /// Its number.
    pub(super) nr: i64,
    /// The instruction after it.
    ip: u64,
    /// When it fell asleep.
    since: Option<Instant>,
}

impl Asleep {
    /// Whether it is the call that the registers show to be interrupted.
    pub(super) fn is_call_of(&self, registers: &Registers) -> bool {
        registers.rip == self.ip && registers.orig_rax as i64 == self.nr
    }

    /// How long it had slept at a moment.
    pub(super) fn slept(&self, at: Instant) -> Option<Duration> {
        Some(at.saturating_duration_since(self.since?))
    }
}

/// For each thread the call it is asleep in.
pub(super) fn read(tids: &[u32]) -> Vec<(u32, Option<Asleep>)> {
    tids.iter().map(|&tid| (tid, of_thread(tid))).collect()
}

fn of_thread(tid: u32) -> Option<Asleep> {
    let syscall = read_proc(tid, "syscall").ok()?;
    let mut syscall = words(&syscall);
    let nr = number(syscall.next()?)?;
    let ip = hex(syscall.last()?)?;
    Some(Asleep {
        nr,
        ip,
        since: None,
    })
}

/// What a thread that does not stop is doing, for people.
pub(super) fn describe(tid: u32) -> String {
    let nr = of_thread(tid).map(|a| a.nr);
    match (nr, Stat::read(tid).map(|s| s.state)) {
        (Some(libc::SYS_vfork | libc::SYS_clone | libc::SYS_clone3), Ok(b'D')) => {
            "it waits for the child it has vforked to end or to execute a program".to_owned()
        }
        (Some(nr), Ok(b'D')) => {
            format!("it is in an uninterruptible sleep in system call {nr}")
        }
        (_, Ok(state)) => format!("its state is {}", state as char),
        (_, Err(_)) => "it has ended".to_owned(),
    }
}
