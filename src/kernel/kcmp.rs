//! kcmp(2): which kernel objects tasks share.

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

/// What tasks may share beyond open file descriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// Address space (CLONE_VM).
    Memory,
    /// Descriptor table (CLONE_FILES).
    DescriptorTable,
    /// Working directory, root, umask (CLONE_FS).
    Fs,
    /// Signal actions (CLONE_SIGHAND).
    SignalHandlers,
}

/// Order of the objects that two threads have.
pub fn order(object: Object, a: u32, b: u32) -> io::Result<Ordering> {
    let kind = match object {
        Object::Memory => KCMP_VM,
        Object::DescriptorTable => KCMP_FILES,
        Object::Fs => KCMP_FS,
        Object::SignalHandlers => KCMP_SIGHAND,
    };
    Ok(compare((a, b), kind, 0, 0)?.unwrap_or(a.cmp(&b)))
}

/// Puts threads that share an object together: for each thread the number of
/// its object, objects counted from 0 in the order in which they first appear.
pub fn group(object: Object, tids: &[u32]) -> io::Result<Vec<u32>> {
    let mut failure = None;
    let mut compare = |&a: &usize, &b: &usize| {
        order(object, tids[a], tids[b]).unwrap_or_else(|e| {
            failure = Some(e);
            Ordering::Equal
        })
    };
    let mut sorted: Vec<usize> = (0..tids.len()).collect();
    sorted.sort_by(&mut compare);
    let mut first: Vec<usize> = (0..tids.len()).collect();
    for pair in sorted.windows(2) {
        // The sort is stable: the first of equals comes first.
        if compare(&pair[0], &pair[1]) == Ordering::Equal {
            first[pair[1]] = first[pair[0]];
        }
    }
    if let Some(e) = failure {
        return Err(e);
    }
    let mut numbers = vec![0; tids.len()];
    let mut next = 0;
    for i in 0..tids.len() {
        numbers[i] = match first[i] == i {
            true => next,
            false => numbers[first[i]],
        };
        next = next.max(numbers[i] + 1);
    }
    Ok(numbers)
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

/// Whether the file behind `target`, a task (or thread) and a number, is what
/// the epoll instance behind `epoll` watches as registration number `index` of
/// those under number `target_fd`.
pub fn is_epoll_target(
    target: (u32, u32),
    epoll: (u32, u32),
    target_fd: u32,
    index: u32,
) -> io::Result<bool> {
    let slot = EpollSlot {
        epoll_fd: epoll.1,
        target_fd,
        index,
    };
    let address = &raw const slot as u64;
    let order = compare(
        (target.0, epoll.0),
        KCMP_EPOLL_TFD,
        target.1.into(),
        address,
    )?;
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
        let is = |fd: i32| is_epoll_target((pid, fd as u32), (pid, ep), tfd, 0).unwrap();
        assert!(is(watched.as_raw_fd()));
        assert!(is(copy.as_raw_fd()));
        assert!(!is(other.as_raw_fd()));
        assert!(is_epoll_target((pid, tfd), (pid, ep), tfd, 1).is_err());
    }

    #[test]
    fn threads_share_what_processes_do_not() {
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
            tell.send(tid).unwrap();
            let _ = stopped.recv();
        });
        let other = told.recv().unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let tids = [std::process::id(), child.id(), other];
        let group = |object| group(object, &tids);
        let memory = group(Object::Memory);
        let hands = group(Object::SignalHandlers);
        child.kill().unwrap();
        child.wait().unwrap();
        drop(stop);
        thread.join().unwrap();
        assert_eq!(memory.unwrap(), [0, 1, 0]);
        assert_eq!(hands.unwrap(), [0, 1, 0]);
    }
}
