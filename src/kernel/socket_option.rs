//! Options and figures of sockets that have no wrapper elsewhere.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// An option of SOL_SOCKET that is an int.
pub fn get(socket: impl AsFd, option: i32) -> io::Result<i32> {
    let mut value = 0_i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    result(ret).map(|()| value)
}

/// Sets an option of SOL_SOCKET that is an int.
pub fn set(socket: impl AsFd, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the kernel reads four bytes at `value`.
    let ret = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    result(ret)
}

/// Whether a filter program is attached (SO_ATTACH_FILTER, SO_ATTACH_BPF).
pub fn has_filter(socket: impl AsFd) -> bool {
    let mut instructions: libc::socklen_t = 0;
    // SAFETY: asked with a length of 0 the kernel writes the number of
    // instructions to the length and nothing to the value.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_GET_FILTER,
            std::ptr::null_mut(),
            &raw mut instructions,
        )
    };
    // An eBPF program is refused with EACCES.
    ret != 0 || instructions != 0
}

/// SO_PEERCRED: pid, effective uid and gid of whoever made the other end.
/// `None`: there is none.
pub fn peer_credentials(socket: impl AsFd) -> io::Result<Option<(u32, u32, u32)>> {
    let mut value = [0_u32; 3];
    let mut len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            value.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    result(ret)?;
    let [pid, uid, gid] = value;
    Ok((uid != u32::MAX).then_some((pid, uid, gid)))
}

/// SO_PEERGROUPS: supplementary groups of whoever made the other end.
pub fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    const SO_PEERGROUPS: i32 = 59;
    // NGROUPS_MAX.
    let mut groups = vec![0_u32; 65536];
    let mut len = (groups.len() * 4) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `groups`.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    result(ret)?;
    groups.truncate(len as usize / 4);
    Ok(groups)
}

/// SIOCOUTQ: what it has sent and nobody has read. Of AF_UNIX sockets it
/// counts the memory that this takes, bytes.
pub fn unread(socket: impl AsFd) -> io::Result<u32> {
    let mut bytes = 0_i32;
    // SAFETY: the kernel writes an int to `bytes`.
    let ret = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    result(ret).map(|()| bytes as u32)
}

fn result(ret: i32) -> io::Result<()> {
    match ret {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn what_is_unread_takes_the_same_memory_each_time() {
        for len in [0, 1, 500, 5000, 70_000] {
            let (one, _end) = UnixDatagram::pair().unwrap();
            let (two, end) = UnixDatagram::pair().unwrap();
            assert_eq!(unread(&one).unwrap(), 0);
            for socket in [&one, &two] {
                socket.send(&vec![1; len]).unwrap();
            }
            let memory = unread(&one).unwrap();
            assert_eq!(unread(&two).unwrap(), memory);
            two.send(&[]).unwrap();
            assert!(unread(&two).unwrap() > memory);
            end.recv(&mut [0]).unwrap();
            end.recv(&mut [0]).unwrap();
            assert_eq!(unread(&two).unwrap(), 0);
        }
    }

    #[test]
    fn a_filter_is_seen() {
        let (one, other) = UnixDatagram::pair().unwrap();
        assert!(!has_filter(&one));
        // Let everything pass.
        let mut pass = libc::sock_filter {
            code: (libc::BPF_RET | libc::BPF_K) as u16,
            jt: 0,
            jf: 0,
            k: u32::MAX,
        };
        let program = libc::sock_fprog {
            len: 1,
            filter: &raw mut pass,
        };
        // SAFETY: `program` and the instruction it points to are alive.
        let ret = unsafe {
            libc::setsockopt(
                one.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size_of_val(&program) as libc::socklen_t,
            )
        };
        assert_eq!(ret, 0);
        assert!(has_filter(&one));
        assert!(!has_filter(&other));
    }

    #[test]
    fn an_option_is_what_it_was_set_to() {
        let (one, _other) = UnixDatagram::pair().unwrap();
        assert_eq!(get(&one, libc::SO_PASSCRED).unwrap(), 0);
        set(&one, libc::SO_PASSCRED, 1).unwrap();
        assert_eq!(get(&one, libc::SO_PASSCRED).unwrap(), 1);
    }
}
