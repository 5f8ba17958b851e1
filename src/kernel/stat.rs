//! `/proc/TID/stat`, as bytes: a comm may hold anything, also `) R 1`.

use std::io;

use super::proc_text::{self, malformed, number, words};

/// The part of `stat` that icecore uses; numbers of fields as in proc(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Field 2, without its parentheses.
    pub(crate) comm: Vec<u8>,
    /// Field 3: R, S, D, T, t, Z, X …
    pub(crate) state: u8,
    /// Field 4.
    pub(crate) ppid: u32,
    /// Field 5.
    pub(crate) pgid: u32,
    /// Field 6.
    pub(crate) sid: u32,
    /// Field 7: device number of its controlling terminal, in the kernel's own
    /// form; 0: none.
    pub(crate) tty: u32,
    /// Field 8: the foreground process group of that.
    pub(crate) foreground: u32,
    /// Field 9: PF_* of the kernel.
    pub(crate) flags: u64,
    /// Fields 14 to 17, clock ticks.
    pub(crate) times: [u64; 4],
    /// Field 22: clock ticks after boot.
    pub(crate) start_time: u64,
    /// Field 38.
    pub(crate) exit_signal: u32,
    /// Field 52: the wait status of a zombie; 0 where one may not know.
    pub(crate) exit_status: i32,
}

/// The task may not start block I/O while it allocates memory; together with
/// [`PF_LOCAL_THROTTLE`] this is what PR_SET_IO_FLUSHER sets.
pub(crate) const PF_MEMALLOC_NOIO: u64 = 0x0008_0000;
/// The task throttles writes only against its own device.
pub(crate) const PF_LOCAL_THROTTLE: u64 = 0x0010_0000;
/// A kernel thread.
pub(crate) const PF_KTHREAD: u64 = 0x0020_0000;

impl Stat {
    /// Reads the stat of any thread or zombie.
    pub(crate) fn read(tid: u32) -> io::Result<Self> {
        Self::parse(&proc_text::read(tid, "stat")?)
    }

    fn parse(text: &[u8]) -> io::Result<Self> {
        let open = text.iter().position(|b| *b == b'(');
        let close = text.iter().rposition(|b| *b == b')');
        let (Some(open), Some(close)) = (open, close) else {
            return Err(malformed("comm in stat"));
        };
        if close < open {
            return Err(malformed("comm in stat"));
        }
        // fields[0] is field 3.
        let fields: Vec<&[u8]> = words(&text[close + 1..]).collect();
        let at = |field: usize| fields.get(field - 3).copied().unwrap_or_default();
        let wide = |field: usize| {
            number::<u64>(at(field)).ok_or_else(|| malformed(&format!("field {field} of stat")))
        };
        let narrow = |field: usize| {
            number::<i64>(at(field))
                .map(|n| n.max(0) as u32)
                .ok_or_else(|| malformed(&format!("field {field} of stat")))
        };
        Ok(Self {
            comm: text[open + 1..close].to_vec(),
            state: *at(3).first().ok_or_else(|| malformed("state in stat"))?,
            ppid: narrow(4)?,
            pgid: narrow(5)?,
            sid: narrow(6)?,
            tty: narrow(7)?,
            foreground: narrow(8)?,
            flags: wide(9)?,
            times: [wide(14)?, wide(15)?, wide(16)?, wide(17)?],
            start_time: wide(22)?,
            exit_signal: narrow(38)?,
            exit_status: number(at(52)).ok_or_else(|| malformed("field 52 of stat"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &[u8] = b" S 1 42 41 0 -1 4194560 1 2 3 4 11 12 13 14 20 0 1 0 777 \
        0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 256\n";

    #[test]
    fn a_comm_may_hold_anything() -> io::Result<()> {
        let mut text = b"42 (a) R 9 \xff(".to_vec();
        text.push(b')');
        text.extend(TAIL);
        let stat = Stat::parse(&text)?;
        assert_eq!(stat.comm, b"a) R 9 \xff(");
        assert_eq!(
            (stat.state, stat.ppid, stat.pgid, stat.sid),
            (b'S', 1, 42, 41)
        );
        assert_eq!(stat.flags, 4_194_560);
        assert_eq!(stat.times, [11, 12, 13, 14]);
        assert_eq!((stat.start_time, stat.exit_signal), (777, 17));
        assert_eq!(stat.exit_status, 256);
        Ok(())
    }

    #[test]
    fn short_and_odd_texts_are_errors() {
        for text in [&b""[..], b"1 (a", b"1 )a(", b"1 (a) S 1"] {
            assert!(Stat::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn reads_our_own() -> io::Result<()> {
        let stat = Stat::read(std::process::id())?;
        assert_eq!(stat.exit_signal, 17);
        assert_eq!(stat.flags & PF_KTHREAD, 0);
        Ok(())
    }
}
