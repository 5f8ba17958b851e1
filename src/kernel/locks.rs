//! Locks on files as `/proc/locks` and the `lock:` lines of fdinfo show them,
//! and the test whether one could be taken.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use icecore_images::lock::{FileLock, LockKind};

/// Last byte of a lock that reaches to the end of the file.
pub const END_OF_FILE: u64 = i64::MAX as u64;

/// A lock that somebody holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The lock.
    pub lock: FileLock,
    /// Who took it; -1 for F_OFD_SETLK.
    pub pid: i32,
    /// Device of the file's superblock, major and minor.
    pub device: (u32, u32),
    /// Inode number of the file.
    pub inode: u64,
}

/// Parses `1: POSIX  ADVISORY  WRITE 19798 fe:00:10011042 10 14`; `None` for
/// leases that are being broken, delegations, waiters and all that is not known.
pub fn parse(line: &str) -> Option<Held> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, kind, state, mode, pid, file, start, end] = words[..] else {
        return None;
    };
    let kind = match (kind, state) {
        ("POSIX", "ADVISORY") => LockKind::Posix,
        ("OFDLCK", "ADVISORY") => LockKind::Ofd,
        ("FLOCK", "ADVISORY") => LockKind::Flock,
        ("LEASE", "ACTIVE") => LockKind::Lease,
        _ => return None,
    };
    let write = match mode {
        "WRITE" => true,
        "READ" => false,
        _ => return None,
    };
    let end = match end {
        "EOF" => END_OF_FILE,
        number => number.parse().ok()?,
    };
    let (major, rest) = file.split_once(':')?;
    let (minor, inode) = rest.split_once(':')?;
    let hex = |word| u32::from_str_radix(word, 16).ok();
    Some(Held {
        lock: FileLock {
            kind,
            write,
            start: start.parse().ok()?,
            end,
            table: None,
        },
        pid: pid.parse().ok()?,
        device: (hex(major)?, hex(minor)?),
        inode: inode.parse().ok()?,
    })
}

/// `struct flock` of a lock as fcntl(2) takes it.
pub fn to_bytes(lock: &FileLock) -> [u8; 32] {
    let kind = if lock.write {
        libc::F_WRLCK
    } else {
        libc::F_RDLCK
    };
    let length = match lock.end {
        END_OF_FILE => 0,
        end => end - lock.start + 1,
    };
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&(kind as i16).to_le_bytes());
    bytes[8..16].copy_from_slice(&lock.start.to_le_bytes());
    bytes[16..24].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// Who holds a lock of fcntl(2) that keeps `lock` from being taken through
/// `fd` by somebody new; -1: an open file description (F_OFD_SETLK), 0: a
/// process of another namespace.
pub fn in_the_way(fd: impl AsFd, lock: &FileLock) -> io::Result<Option<i32>> {
    let mut bytes = to_bytes(lock);
    let address = bytes.as_mut_ptr();
    // SAFETY: F_OFD_GETLK reads and writes a struct flock, 32 bytes here.
    let ret = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_OFD_GETLK, address) };
    if ret != 0 {
        return Err(io::Error::last_os_error());
    }
    let [a, b] = [bytes[0], bytes[1]];
    let [p, q, r, s] = [bytes[24], bytes[25], bytes[26], bytes[27]];
    let free = i16::from_le_bytes([a, b]) == libc::F_UNLCK as i16;
    Ok((!free).then_some(i32::from_le_bytes([p, q, r, s])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_and_range_is_known() {
        let held = parse("1: POSIX  ADVISORY  WRITE 19798 fe:00:10011042 10 14").unwrap();
        let lock = FileLock {
            kind: LockKind::Posix,
            write: true,
            start: 10,
            end: 14,
            table: None,
        };
        assert_eq!((held.lock, held.pid), (lock, 19798));
        assert_eq!((held.device, held.inode), ((0xfe, 0), 10_011_042));
        let held = parse("2: OFDLCK ADVISORY  READ -1 fe:00:7 100 EOF").unwrap();
        assert_eq!((held.lock.kind, held.pid), (LockKind::Ofd, -1));
        assert_eq!((held.lock.write, held.lock.end), (false, END_OF_FILE));
        let held = parse("1: FLOCK  ADVISORY  READ 7 fe:00:7 0 EOF").unwrap();
        assert_eq!(held.lock.kind, LockKind::Flock);
        let held = parse("1: LEASE  ACTIVE    WRITE 7 fe:00:7 0 EOF").unwrap();
        assert_eq!((held.lock.kind, held.lock.write), (LockKind::Lease, true));
    }

    #[test]
    fn nothing_else_is() {
        for line in [
            "1: LEASE  BREAKING  READ 19798 fe:00:10011057 0 EOF",
            "1: LEASE  BREAKER   UNLCK 19798 fe:00:10011057 0 EOF",
            "1: DELEG  ACTIVE    READ 19798 fe:00:10011057 0 EOF",
            "1: -> POSIX  ADVISORY  WRITE 19798 fe:00:10011042 10 14",
            "1: POSIX  MANDATORY WRITE 19798 fe:00:10011042 10 14",
            "1: POSIX  ADVISORY  WRITE 19798 fe:00:10011042 10 x",
            "",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn what_another_description_holds_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let holder = std::fs::File::create(&path).unwrap();
        let other = std::fs::File::open(&path).unwrap();
        let lock = FileLock {
            kind: LockKind::Ofd,
            write: true,
            start: 5,
            end: 9,
            table: None,
        };
        assert_eq!(in_the_way(&other, &lock).unwrap(), None);
        let mut bytes = to_bytes(&lock);
        let address = bytes.as_mut_ptr();
        // SAFETY: F_OFD_SETLK reads a struct flock, 32 bytes here.
        let ret = unsafe { libc::fcntl(holder.as_raw_fd(), libc::F_OFD_SETLK, address) };
        assert_eq!(ret, 0);
        assert_eq!(in_the_way(&other, &lock).unwrap(), Some(-1));
        let beside = FileLock {
            start: 10,
            end: END_OF_FILE,
            ..lock
        };
        assert_eq!(in_the_way(&other, &beside).unwrap(), None);
    }
}
