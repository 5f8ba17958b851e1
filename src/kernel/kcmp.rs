//! kcmp(2): whether two descriptors are one open file description.

use std::cmp::Ordering;
use std::io;

const KCMP_FILE: u32 = 0;
const KCMP_VM: u32 = 1;
const KCMP_FILES: u32 = 2;
const KCMP_FS: u32 = 3;
const KCMP_SIGHAND: u32 = 4;
const KCMP_SYSVSEM: u32 = 6;
const KCMP_EPOLL_TFD: u32 = 7;

/// `struct kcmp_epoll_slot`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct EpollSlot {
    epoll_fd: u32,
    target_fd: u32,
    /// Which of several registrations under the same number.
    index: u32,
}

/// How two kernel objects compare: in an order that is arbitrary but stable
/// while the machine runs, `None` where they only differ.
fn compare(pids: (u32, u32), kind: u32, a: u64, b: u64) -> io::Result<Option<Ordering>> {
    // SAFETY: kcmp reads at most a `kcmp_epoll_slot` at `b`; callers that pass
    // an address pass that of a live one.
    let ret = unsafe { libc::syscall(libc::SYS_kcmp, pids.0, pids.1, kind, a, b) };
    match ret {
        0 => Ok(Some(Ordering::Equal)),
        1 => Ok(Some(Ordering::Less)),
        2 => Ok(Some(Ordering::Greater)),
        3 => Ok(None),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Order of the descriptions behind two descriptors, each a task (or thread)
/// and a number.
pub fn files(a: (u32, u32), b: (u32, u32)) -> io::Result<Ordering> {
    let order = compare((a.0, b.0), KCMP_FILE, a.1.into(), b.1.into())?;
    Ok(order.unwrap_or(a.cmp(&b)))
}

/// Whether two threads share their descriptor table.
pub fn same_descriptor_table(a: u32, b: u32) -> io::Result<bool> {
    Ok(compare((a, b), KCMP_FILES, 0, 0)? == Some(Ordering::Equal))
}

/// Whether two threads share working directory, root and umask.
pub fn same_fs(a: u32, b: u32) -> io::Result<bool> {
    Ok(compare((a, b), KCMP_FS, 0, 0)? == Some(Ordering::Equal))
}

/// Whether two threads share their address space.
pub fn same_memory(a: u32, b: u32) -> io::Result<bool> {
    Ok(compare((a, b), KCMP_VM, 0, 0)? == Some(Ordering::Equal))
}

/// Whether two threads share their signal actions.
pub fn same_signal_handlers(a: u32, b: u32) -> io::Result<bool> {
    Ok(compare((a, b), KCMP_SIGHAND, 0, 0)? == Some(Ordering::Equal))
}

/// Whether two threads share their System V semaphore undo list, or both have
/// none.
pub fn same_semaphore_undo(a: u32, b: u32) -> io::Result<bool> {
    Ok(compare((a, b), KCMP_SYSVSEM, 0, 0)? == Some(Ordering::Equal))
}

/// Whether descriptor `fd` of `pid` is what its epoll instance `epoll_fd`
/// watches as registration number `index` of those under number `target_fd`.
pub fn is_epoll_target(
    pid: u32,
    fd: u32,
    epoll_fd: u32,
    target_fd: u32,
    index: u32,
) -> io::Result<bool> {
    let slot = EpollSlot {
        epoll_fd,
        target_fd,
        index,
    };
    let address = &raw const slot as u64;
    let order = compare((pid, pid), KCMP_EPOLL_TFD, fd.into(), address)?;
    Ok(order == Some(Ordering::Equal))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_duplicate_is_the_same_and_a_second_open_is_not() {
        let pid = std::process::id();
        let first = std::fs::File::open("/dev/null").unwrap();
        let duplicate = first.try_clone().unwrap();
        let second = std::fs::File::open("/dev/null").unwrap();
        let number = |f: &std::fs::File| f.as_raw_fd() as u32;
        let order = |a, b| files((pid, number(a)), (pid, number(b))).unwrap();
        assert_eq!(order(&first, &duplicate), Ordering::Equal);
        assert_ne!(order(&first, &second), Ordering::Equal);
        assert_eq!(order(&first, &second), order(&second, &first).reverse());
    }

    #[test]
    fn an_epoll_target_is_found_behind_another_number() {
        use rustix::event::epoll;
        let pid = std::process::id();
        let ep = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let watched = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let data = epoll::EventData::new_u64(1);
        epoll::add(&ep, &watched, data, epoll::EventFlags::IN).unwrap();
        let copy = watched.try_clone().unwrap();
        let other = std::fs::File::open("/dev/null").unwrap();
        let (ep, tfd) = (ep.as_raw_fd() as u32, watched.as_raw_fd() as u32);
        let is = |fd: i32| is_epoll_target(pid, fd as u32, ep, tfd, 0).unwrap();
        assert!(is(watched.as_raw_fd()));
        assert!(is(copy.as_raw_fd()));
        assert!(!is(other.as_raw_fd()));
        assert!(is_epoll_target(pid, tfd, ep, tfd, 1).is_err());
    }
}
