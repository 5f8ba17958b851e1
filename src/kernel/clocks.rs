//! Clocks as another task sees them from its time namespace.

use std::io;

use rustix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC as `pid` would read it now, nanoseconds.
pub fn monotonic_of(pid: u32) -> io::Result<i64> {
    let now = clock_gettime(ClockId::Monotonic);
    let now = now.tv_sec * NANOS + now.tv_nsec;
    Ok(now - monotonic_offset("self")? + monotonic_offset(&pid.to_string())?)
}

const NANOS: i64 = 1_000_000_000;

/// What a task's CLOCK_MONOTONIC is ahead of the machine's, nanoseconds.
fn monotonic_offset(task: &str) -> io::Result<i64> {
    let text = match std::fs::read_to_string(format!("/proc/{task}/timens_offsets")) {
        Ok(text) => text,
        // A kernel without time namespaces.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The `monotonic SECONDS NANOSECONDS` line.
fn parse(text: &str) -> Option<i64> {
    let line = text.lines().find_map(|l| l.strip_prefix("monotonic"))?;
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
        assert_eq!(parse(text), Some(-1_500_000_000));
    }

    #[test]
    fn our_own_clock_is_ours() {
        let before = monotonic_of(std::process::id()).unwrap();
        let now = clock_gettime(ClockId::Monotonic);
        let after = monotonic_of(std::process::id()).unwrap();
        let now = now.tv_sec * NANOS + now.tv_nsec;
        assert!(before <= now && now <= after);
    }
}
