//! `/proc/PID/fdinfo/FD`: what the kernel tells about an open file description
//! without anybody touching it.
//!
//! Parsed as bytes; lines that are not known are kept in
//! [`FdInfo::unknown`], so that a caller can refuse what it does not know.

use std::io;
use std::path::Path;

/// One descriptor's `fdinfo`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FdInfo {
    /// File offset.
    pub position: u64,
    /// O_* flags of the description, and O_CLOEXEC of the descriptor.
    pub flags: u32,
    /// Mount it was opened through.
    pub mount: u32,
    /// Locks held through it (POSIX, flock, OFD, leases), one line each.
    pub locks: Vec<String>,
    /// `eventfd-count`.
    pub eventfd_count: Option<u64>,
    /// `eventfd-semaphore` (kernel 6.5).
    pub eventfd_semaphore: Option<bool>,
    /// `sigmask` of a signalfd.
    pub sigmask: Option<u64>,
    /// The fields of a timerfd.
    pub timer: Option<TimerInfo>,
    /// Registrations of an epoll instance.
    pub epoll: Vec<EpollInfo>,
    /// Watches of an inotify instance.
    pub inotify: Vec<InotifyInfo>,
    /// `Pid` of a pidfd; -1: that process is gone.
    pub pid: Option<i64>,
    /// Lines of kinds not listed here.
    pub unknown: Vec<String>,
}

/// `fdinfo` of a timerfd.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimerInfo {
    /// CLOCK_*.
    pub clock: i32,
    /// Expirations not yet read.
    pub ticks: u64,
    /// TFD_TIMER_*, octal in the file.
    pub settime_flags: u32,
    /// Nanoseconds to the next expiry; 0: disarmed.
    pub value_ns: u64,
    /// Nanoseconds between expiries.
    pub interval_ns: u64,
}

/// A `tfd:` line of an epoll instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpollInfo {
    /// The number it was registered under.
    pub fd: u32,
    /// EPOLL* bits.
    pub events: u32,
    /// User data.
    pub data: u64,
    /// Inode number of the watched file.
    pub inode: u64,
}

/// An `inotify` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InotifyInfo {
    /// Watch descriptor.
    pub wd: i32,
    /// Inode number of what is watched.
    pub inode: u64,
    /// Its superblock's device as the kernel counts it (20 bits minor).
    pub device: u64,
    /// IN_* mask.
    pub mask: u32,
    /// File handle, where the file system gives one: its type and bytes.
    pub handle: Option<(i32, Vec<u8>)>,
}

/// Reads and parses the file at `path`.
pub fn read(path: &Path) -> io::Result<FdInfo> {
    let bytes = std::fs::read(path)?;
    parse(&bytes).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("unexpected contents: {}", bytes.escape_ascii()),
        )
    })
}

/// Parses the contents of an `fdinfo` file; `None` where a line that is known
/// does not look as it should.
pub fn parse(bytes: &[u8]) -> Option<FdInfo> {
    let mut info = FdInfo::default();
    for line in bytes.split(|&b| b == b'\n').filter(|l| !l.is_empty()) {
        let line = std::str::from_utf8(line).ok()?;
        parse_line(line, &mut info)?;
    }
    Some(info)
}

fn parse_line(line: &str, info: &mut FdInfo) -> Option<()> {
    if let Some(rest) = line.strip_prefix("inotify ") {
        info.inotify.push(parse_inotify(rest)?);
        return Some(());
    }
    let (key, value) = line.split_once(':').unwrap_or((line, ""));
    let value = value.trim();
    match key {
        "pos" => info.position = value.parse::<i64>().ok()? as u64,
        "flags" => info.flags = u32::from_str_radix(value, 8).ok()?,
        "mnt_id" => info.mount = value.parse().ok()?,
        // The kernel's numbers for anonymous inodes; NSpid repeats Pid.
        "ino" | "eventfd-id" | "NSpid" => {}
        "lock" => info.locks.push(value.to_owned()),
        "eventfd-count" => info.eventfd_count = Some(hex(value)?),
        "eventfd-semaphore" => info.eventfd_semaphore = Some(value == "1"),
        "sigmask" => info.sigmask = Some(hex(value)?),
        "tfd" => info.epoll.push(parse_epoll(value)?),
        "Pid" => info.pid = Some(value.parse().ok()?),
        "clockid" | "ticks" | "settime flags" | "it_value" | "it_interval" => {
            parse_timer(key, value, info.timer.get_or_insert_default())?;
        }
        _ => info.unknown.push(line.to_owned()),
    }
    Some(())
}

fn parse_timer(key: &str, value: &str, timer: &mut TimerInfo) -> Option<()> {
    match key {
        "clockid" => timer.clock = value.parse().ok()?,
        "ticks" => timer.ticks = value.parse().ok()?,
        "settime flags" => timer.settime_flags = u32::from_str_radix(value, 8).ok()?,
        "it_value" => timer.value_ns = parse_timespec(value)?,
        _ => timer.interval_ns = parse_timespec(value)?,
    }
    Some(())
}

/// `(seconds, nanoseconds)`.
fn parse_timespec(value: &str) -> Option<u64> {
    let (seconds, nanos) = value
        .strip_prefix('(')?
        .strip_suffix(')')?
        .split_once(", ")?;
    let seconds: u64 = seconds.parse().ok()?;
    seconds
        .checked_mul(1_000_000_000)?
        .checked_add(nanos.parse().ok()?)
}

/// `5 events: 19 data: ffff pos:0 ino:61af sdev:7`, numbers but the first in
/// hexadecimal.
fn parse_epoll(value: &str) -> Option<EpollInfo> {
    let (fd, rest) = value.split_once(' ')?;
    let field = |name: &str| {
        let at = rest.find(name)? + name.len();
        rest[at..].split_whitespace().next()
    };
    Some(EpollInfo {
        fd: fd.parse().ok()?,
        events: u32::from_str_radix(field("events:")?, 16).ok()?,
        data: hex(field("data:")?)?,
        inode: hex(field("ino:")?)?,
    })
}

/// `wd:1 ino:3c4a7 sdev:fe00000 mask:fff ignored_mask:0 fhandle-bytes:8
/// fhandle-type:1 f_handle:a7c4030000000000`.
fn parse_inotify(line: &str) -> Option<InotifyInfo> {
    let field = |name: &str| {
        line.split_whitespace()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix(':'))
    };
    let handle = match (field("fhandle-type"), field("f_handle")) {
        (Some(kind), Some(bytes)) => {
            Some((i64::from_str_radix(kind, 16).ok()? as i32, unhex(bytes)?))
        }
        _ => None,
    };
    Some(InotifyInfo {
        wd: field("wd")?.parse().ok()?,
        inode: hex(field("ino")?)?,
        device: hex(field("sdev")?)?,
        mask: hex(field("mask")?)? as u32,
        handle,
    })
}

fn hex(value: &str) -> Option<u64> {
    u64::from_str_radix(value.trim(), 16).ok()
}

fn unhex(value: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = value
        .chars()
        .map(|c| c.to_digit(16).map(|d| d as u8))
        .collect();
    let digits = digits?;
    Some(
        digits
            .chunks(2)
            .map(|c| c.iter().fold(0, |n, d| n << 4 | d))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regular_file_with_a_lock() {
        let text = b"pos:\t12\nflags:\t02100002\nmnt_id:\t27\nino:\t5\n\
            lock:\t1: FLOCK  ADVISORY  WRITE 359 00:13:11691 0 EOF\n";
        let info = parse(text).unwrap();
        assert_eq!(info.position, 12);
        assert_eq!(info.flags, 0o2_100_002);
        assert_eq!(info.locks.len(), 1);
        assert!(info.unknown.is_empty());
    }

    #[test]
    fn an_epoll_instance() {
        let text = b"pos:\t0\nflags:\t02\nmnt_id:\t17\n\
            tfd:        6 events: c0000019 data: ffffffffffffffff  pos:0 ino:7a88 sdev:f\n";
        assert_eq!(
            parse(text).unwrap().epoll,
            [EpollInfo {
                fd: 6,
                events: 0xc000_0019,
                data: u64::MAX,
                inode: 0x7a88
            }]
        );
    }

    #[test]
    fn a_timer() {
        let text = b"clockid: 1\nticks: 3\nsettime flags: 01\n\
            it_value: (2, 000000500)\nit_interval: (0, 7)\n";
        let want = TimerInfo {
            clock: 1,
            ticks: 3,
            settime_flags: 1,
            value_ns: 2_000_000_500,
            interval_ns: 7,
        };
        assert_eq!(parse(text).unwrap().timer, Some(want));
    }

    #[test]
    fn an_inotify_watch() {
        let text = b"inotify wd:1 ino:3c4a7 sdev:fe00000 mask:fff ignored_mask:0 \
            fhandle-bytes:8 fhandle-type:1 f_handle:a7c4030000000000\n";
        let watch = parse(text).unwrap().inotify.remove(0);
        assert_eq!((watch.wd, watch.inode, watch.mask), (1, 0x3c4a7, 0xfff));
        assert_eq!(watch.handle.unwrap().1[..3], [0xa7, 0xc4, 3]);
    }

    #[test]
    fn what_is_not_known_is_kept_and_what_is_malformed_refused() {
        assert_eq!(parse(b"brand-new: 1\n").unwrap().unknown, ["brand-new: 1"]);
        assert_eq!(parse(b"tfd: x events: 1\n"), None);
        assert_eq!(parse(b"it_value: (1\n"), None);
        assert_eq!(parse(b"pos:\t\xff\n"), None);
    }
}
