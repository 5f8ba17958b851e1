//! `/proc/TID/timers`: which POSIX timers a task has.

use std::io;

use super::proc_text::{self, field, hex, malformed, number};

/// A timer as /proc shows it: all but its times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcTimer {
    /// Kernel timer id.
    pub(crate) id: u32,
    /// Signal number.
    pub(crate) signal: u32,
    /// `sigev_value`.
    pub(crate) value: u64,
    /// SIGEV_* without SIGEV_THREAD_ID.
    pub(crate) notify: i32,
    /// The thread of SIGEV_THREAD_ID.
    pub(crate) tid: Option<u32>,
    /// CLOCK_*, negative for the CPU clock of a task or thread by id.
    pub(crate) clock: i32,
}

/// The timers of a task, by id.
pub(crate) fn read(tid: u32) -> io::Result<Vec<ProcTimer>> {
    parse(&proc_text::read(tid, "timers")?)
}

fn parse(text: &[u8]) -> io::Result<Vec<ProcTimer>> {
    let mut timers = Vec::new();
    let mut rest = text;
    while let Some(start) = find(rest, b"ID: ") {
        let after = &rest[start..];
        // Each timer ends where the next begins ("ClockID: " does not).
        let len = find(&after[1..], b"\nID: ").map_or(after.len(), |n| n + 2);
        timers.push(one(&after[..len])?);
        rest = &after[len..];
    }
    timers.sort_by_key(|t: &ProcTimer| t.id);
    Ok(timers)
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// ```text
/// ID: 1
/// signal: 10/000000000000cafe
/// notify: signal/pid.123
/// ClockID: 1
/// ```
fn one(text: &[u8]) -> io::Result<ProcTimer> {
    let value = |key: &'static str| field(text, key).ok_or_else(|| malformed(key));
    let halves = |key: &'static str| {
        let value = value(key)?;
        let slash = value.iter().position(|b| *b == b'/');
        let slash = slash.ok_or_else(|| malformed(key))?;
        Ok::<_, io::Error>((&value[..slash], &value[slash + 1..]))
    };
    let (signal, sigval) = halves("signal")?;
    let (how, who) = halves("notify")?;
    let notify = match how {
        b"signal" => libc::SIGEV_SIGNAL,
        b"none" => libc::SIGEV_NONE,
        b"thread" => libc::SIGEV_THREAD,
        _ => return Err(malformed("notify")),
    };
    let (kind, number_of) = match who.iter().position(|b| *b == b'.') {
        Some(dot) => (&who[..dot], &who[dot + 1..]),
        None => return Err(malformed("notify")),
    };
    Ok(ProcTimer {
        id: number(value("ID")?).ok_or_else(|| malformed("ID"))?,
        signal: number(signal).ok_or_else(|| malformed("signal"))?,
        value: hex(sigval).ok_or_else(|| malformed("signal"))?,
        notify,
        tid: match kind {
            b"tid" => Some(number(number_of).ok_or_else(|| malformed("notify"))?),
            _ => None,
        },
        clock: number(value("ClockID")?).ok_or_else(|| malformed("ClockID"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind() -> io::Result<()> {
        let text = b"ID: 12\nsignal: 10/000000000000cafe\nnotify: signal/pid.9\nClockID: 1\n\
                     ID: 3\nsignal: 0/0000000000000003\nnotify: none/pid.9\nClockID: -6\n\
                     ID: 4\nsignal: 34/0\nnotify: signal/tid.11\nClockID: 0\n";
        let timers = parse(text)?;
        assert_eq!(timers.iter().map(|t| t.id).collect::<Vec<_>>(), [3, 4, 12]);
        assert_eq!(timers[0].clock, -6);
        assert_eq!(timers[0].notify, libc::SIGEV_NONE);
        assert_eq!(timers[1].tid, Some(11));
        assert_eq!((timers[2].signal, timers[2].value), (10, 0xcafe));
        Ok(())
    }

    #[test]
    fn none_and_malformed() -> io::Result<()> {
        assert_eq!(parse(b"")?, []);
        assert!(parse(b"ID: 1\nsignal: 10\n").is_err());
        Ok(())
    }
}
