//! Clocks as another task sees them from its time namespace.

use std::io;

use rustix::time::{ClockId, clock_gettime};

const NANOS: i64 = 1_000_000_000;

/// What a task's clock is ahead of ours.
#[derive(Debug, Clone, Copy)]
pub struct TaskClock {
    clock: ClockId,
    ahead_ns: i64,
}

impl TaskClock {
    /// The clock `number` (CLOCK_*, alarm clocks included) of task or thread
    /// `pid`.
    pub fn of(pid: u32, number: i32) -> io::Result<Self> {
        let (clock, name) = match number {
            libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM => {
                let clock = ClockId::Realtime; // not in any namespace
                return Ok(Self { clock, ahead_ns: 0 });
            }
            libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => (ClockId::Boottime, "boottime"),
            _ => (ClockId::Monotonic, "monotonic"),
        };
        let ahead_ns = offset(&pid.to_string(), name)? - offset("self", name)?;
        Ok(Self { clock, ahead_ns })
    }

    /// What the task would read now, nanoseconds.
    pub fn now(&self) -> i64 {
        let now = clock_gettime(self.clock);
        now.tv_sec * NANOS + now.tv_nsec + self.ahead_ns
    }
}

/// What a clock of a task is ahead of the machine's, nanoseconds.
fn offset(task: &str, clock: &str) -> io::Result<i64> {
    let text = match std::fs::read_to_string(format!("/proc/{task}/timens_offsets")) {
        Ok(text) => text,
        // A kernel without time namespaces.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    parse(&text, clock).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The `monotonic SECONDS NANOSECONDS` line, or another clock's.
fn parse(text: &str, clock: &str) -> Option<i64> {
    let line = text.lines().find_map(|l| l.strip_prefix(clock))?;
    let mut words = line.split_whitespace();
    let seconds: i64 = words.next()?.parse().ok()?;
    let nanos: i64 = words.next()?.parse().ok()?;
    seconds.checked_mul(NANOS)?.checked_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_have_a_sign() {
        let text = "monotonic           -2         500000000\nboottime            3         1\n";
        assert_eq!(parse(text, "monotonic"), Some(-1_500_000_000));
        assert_eq!(parse(text, "boottime"), Some(3_000_000_001));
        assert_eq!(parse(text, "realtime"), None);
    }

    #[test]
    fn our_own_clock_is_ours() {
        let own = TaskClock::of(std::process::id(), libc::CLOCK_MONOTONIC).unwrap();
        let before = own.now();
        let now = clock_gettime(ClockId::Monotonic);
        let now = now.tv_sec * NANOS + now.tv_nsec;
        assert!(before <= now && now <= own.now());
    }
}
