//! A stand-in: a process that does one thing to a socket under somebody else's
//! pid, user and groups, which the kernel remembers, and ends.
//!
//! It shares our descriptors and nothing else, and from the fork to its end
//! makes system calls only: we may have other threads, whose locks it has
//! inherited. We wait until it has ended.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::clone3::CloneArgs;
use super::unix_message::{self, Outgoing};

/// Whom it stands in for. What is `None` is ours.
#[derive(Debug, Clone, Copy, Default)]
pub struct Who<'a> {
    /// Its process; EEXIST where there is one, EPERM without
    /// CAP_CHECKPOINT_RESTORE.
    pub pid: Option<u32>,
    /// Effective user, effective group, supplementary groups.
    pub user: Option<(u32, u32, &'a [u32])>,
}

/// What it does: system call, arguments.
#[derive(Debug, Clone, Copy)]
struct Deed {
    nr: libc::c_long,
    args: [u64; 4],
    /// What the call must return.
    expected: i64,
    /// Numbers that the descriptors in the array at the last argument get.
    place: Option<[i32; 2]>,
}

/// socketpair(2): each end shows `who` as its other's credentials.
pub fn pair(who: &Who<'_>, kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    // Numbers that are ours already, as a shared table shows no others.
    let ends = [(); 2].map(|()| {
        let flags = SocketFlags::CLOEXEC;
        rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)
    });
    let [one, other] = ends;
    let (one, other) = (one?, other?);
    let mut made = [-1_i32; 2];
    let deed = Deed {
        nr: libc::SYS_socketpair,
        args: [
            libc::AF_UNIX as u64,
            u64::from(kind.as_raw()),
            0,
            (&raw mut made) as u64,
        ],
        expected: 0,
        place: Some([one.as_raw_fd(), other.as_raw_fd()]),
    };
    // SAFETY: `made` has room for two descriptors, in the child's copy.
    unsafe { act(who, &deed) }?;
    Ok((one, other))
}

/// listen(2): who connects sees `who` as its other end's credentials.
pub fn listen(who: &Who<'_>, socket: impl AsFd, backlog: u32) -> io::Result<()> {
    let deed = Deed {
        nr: libc::SYS_listen,
        args: [socket.as_fd().as_raw_fd() as u64, backlog.into(), 0, 0],
        expected: 0,
        place: None,
    };
    // SAFETY: no argument is an address.
    unsafe { act(who, &deed) }
}

/// connect(2): who accepts sees `who` as its other end's credentials.
pub fn connect(who: &Who<'_>, socket: impl AsFd, name: &[u8]) -> io::Result<()> {
    let (address, len) = unix_message::address(name)?;
    let deed = Deed {
        nr: libc::SYS_connect,
        args: [
            socket.as_fd().as_raw_fd() as u64,
            (&raw const address) as u64,
            len.into(),
            0,
        ],
        expected: 0,
        place: None,
    };
    // SAFETY: `address` is alive, and a copy of it at the same place in the child.
    unsafe { act(who, &deed) }
}

/// sendmsg(2): credentials may be sent of processes that exist.
pub fn send(who: &Who<'_>, socket: impl AsFd, message: &Outgoing<'_>) -> io::Result<()> {
    unix_message::with_header(message, |header, how| {
        let deed = Deed {
            nr: libc::SYS_sendmsg,
            args: [
                socket.as_fd().as_raw_fd() as u64,
                header as u64,
                how as u64,
                0,
            ],
            expected: message.bytes.len() as i64,
            place: None,
        };
        // SAFETY: the header and all it points to are alive, and copies of it at
        // the same place in the child.
        unsafe { act(who, &deed) }
    })
}

/// # Safety
/// Addresses in the arguments must be those of live memory, as the call wants
/// it.
unsafe fn act(who: &Who<'_>, deed: &Deed) -> io::Result<()> {
    let pid = [who.pid.unwrap_or_default()];
    let args = CloneArgs {
        flags: (libc::CLONE_FILES | libc::CLONE_VFORK) as u64,
        set_tid: if who.pid.is_some() {
            pid.as_ptr() as u64
        } else {
            0
        },
        set_tid_size: who.pid.is_some().into(),
        ..CloneArgs::default()
    };
    let bytes = args.to_bytes();
    // SAFETY: a fork (memory is a copy) with valid arguments; the child goes to
    // `stand_in` at once, which never returns and makes nothing but system
    // calls.
    let child = unsafe { libc::syscall(libc::SYS_clone3, bytes.as_ptr(), bytes.len()) };
    match child {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: as the caller promises.
        0 => unsafe { stand_in(who, deed) },
        child => ended(child as libc::pid_t),
    }
}

/// Waits for the child, whose exit status is an errno.
fn ended(child: libc::pid_t) -> io::Result<()> {
    let mut status = 0;
    // SAFETY: the kernel writes the status.
    while unsafe { libc::waitpid(child, &raw mut status, libc::__WALL) } == -1 {
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
    match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
        (true, 0) => Ok(()),
        (true, errno) => Err(io::Error::from_raw_os_error(errno)),
        (false, _) => Err(io::Error::other("a stand-in was killed")),
    }
}

/// The stand-in's life.
///
/// # Safety
/// As [`act`].
unsafe fn stand_in(who: &Who<'_>, deed: &Deed) -> ! {
    let errno = |ret: i64, expected: i64| match ret {
        ret if ret == expected => 0,
        // SAFETY: this thread's errno.
        -1 => unsafe { *libc::__errno_location() },
        _ => libc::EIO,
    };
    // SAFETY: as the caller promises; the other calls take numbers, and a slice
    // with its length.
    unsafe {
        let mut failed = 0;
        if let Some((uid, gid, groups)) = who.user {
            let keep = u32::MAX;
            failed = errno(
                libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
                0,
            );
            if failed == 0 {
                failed = errno(libc::syscall(libc::SYS_setresgid, keep, gid, keep), 0);
            }
            if failed == 0 {
                failed = errno(libc::syscall(libc::SYS_setresuid, keep, uid, keep), 0);
            }
            // Files are reached as we reach them.
            libc::syscall(libc::SYS_setfsuid, libc::syscall(libc::SYS_getuid));
        }
        if failed == 0 {
            let [a, b, c, d] = deed.args;
            failed = errno(libc::syscall(deed.nr, a, b, c, d), deed.expected);
        }
        if let (0, Some(numbers)) = (failed, deed.place) {
            let made = deed.args[3] as *const [i32; 2];
            for (from, to) in made.read().into_iter().zip(numbers) {
                libc::syscall(libc::SYS_dup3, from, to, libc::O_CLOEXEC);
                libc::syscall(libc::SYS_close, from);
            }
        }
        libc::syscall(libc::SYS_exit_group, failed);
        libc::_exit(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::socket_option;

    /// A number that nobody has, high up.
    fn free_pid() -> u32 {
        let most = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
        let most: u32 = most.trim().parse().unwrap();
        let free = |pid: &u32| !std::path::Path::new(&format!("/proc/{pid}")).exists();
        (most / 2..most).rev().find(free).unwrap()
    }

    #[test]
    fn both_ends_of_a_pair_show_who_was_stood_in_for() {
        let pid = free_pid();
        let who = Who {
            pid: Some(pid),
            user: Some((1234, 2345, &[7, 8])),
        };
        let (one, other) = pair(&who, SocketType::STREAM).unwrap();
        for end in [&one, &other] {
            let shown = socket_option::peer_credentials(end).unwrap();
            assert_eq!(shown, Some((pid, 1234, 2345)));
            assert_eq!(socket_option::peer_groups(end).unwrap(), [7, 8]);
        }
        rustix::io::write(&one, b"through").unwrap();
        let mut bytes = [0; 9];
        assert_eq!(rustix::io::read(&other, &mut bytes[..]).unwrap(), 7);
    }

    #[test]
    fn each_end_of_a_connection_shows_the_other() {
        let (server, client) = (free_pid(), free_pid() - 7);
        let listener = crate::kernel::unix_message::tests::socket();
        unix_message::bind(&listener, b"").unwrap();
        let name = unix_message::name(&listener).unwrap().unwrap();
        let who = |pid| Who {
            pid: Some(pid),
            user: Some((1, 2, &[])),
        };
        listen(&who(server), &listener, 1).unwrap();
        let one = crate::kernel::unix_message::tests::socket();
        connect(&who(client), &one, &name).unwrap();
        let other = rustix::net::accept(&listener).unwrap();
        let shown = |end: &OwnedFd| socket_option::peer_credentials(end).unwrap().unwrap();
        assert_eq!(shown(&one), (server, 1, 2));
        assert_eq!(shown(&other), (client, 1, 2));
        assert_eq!(shown(&listener), (server, 1, 2));
    }

    #[test]
    fn a_pid_that_is_taken_is_an_error() {
        let who = Who {
            pid: Some(1),
            user: None,
        };
        let e = pair(&who, SocketType::DGRAM).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::EEXIST));
    }
}
