//! System V semaphores: who operated on them last.

use std::io;

use super::proc_text::{lines, number, words};

/// Semaphore sets in which `pid` was the last to operate on some semaphore.
pub(crate) fn last_operated_by(pid: u32) -> io::Result<Vec<i32>> {
    let text = match std::fs::read("/proc/sysvipc/sem") {
        Ok(text) => text,
        // A kernel without CONFIG_SYSVIPC.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    Ok(sets(&text)
        .filter(|&(id, count)| (0..count).any(|n| last_pid(id, n) == Some(pid)))
        .map(|(id, _)| id)
        .collect())
}

/// Id and size of every set: the file has a heading, then a line a set (key,
/// semid, perms, nsems …).
fn sets(text: &[u8]) -> impl Iterator<Item = (i32, i32)> {
    lines(text).skip(1).filter_map(|line| {
        let mut words = words(line).skip(1);
        let id = number(words.next()?)?;
        Some((id, number(words.nth(1)?)?))
    })
}

/// `None` where the set is gone or may not be read.
fn last_pid(id: i32, semaphore: i32) -> Option<u32> {
    // SAFETY: GETPID takes no fourth argument.
    let pid = unsafe { libc::semctl(id, semaphore, libc::GETPID) };
    u32::try_from(pid).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_listed() {
        let text = b"key semid perms nsems uid gid cuid cgid otime ctime\n\
                     0 3 600 2 0 0 0 0 0 1\n17 4 666 1 0 0 0 0 0 1\n";
        assert_eq!(sets(text).collect::<Vec<_>>(), [(3, 2), (4, 1)]);
    }
}
