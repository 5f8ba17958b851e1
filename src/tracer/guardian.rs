//! The guardian: a small process that undoes what icecore has changed outside
//! the registers of its tracees, if icecore ends before it could do so itself.
//!
//! It is forked before anything is changed, in a session of its own, and waits
//! for the end of a socket whose other end only icecore holds. What is to be
//! undone is told to it before it is done, through a memory file that outlives
//! icecore; sockets whose options are to be set back reach it through the socket.
//! Between fork and end it makes system calls only: icecore may have other
//! threads, whose locks it has inherited.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The name of its process.
pub const NAME: &std::ffi::CStr = c"icecore-guard";

/// Something to be undone.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Undo<'a> {
    /// Remove a file. Its name must be one that nobody else would use.
    RemoveFile {
        /// Where it is.
        path: PathBuf,
        /// Leave it, if this exists.
        unless: Option<PathBuf>,
    },
    /// Remove a directory, if it is empty.
    RemoveDir {
        /// Where it is.
        path: PathBuf,
        /// Leave it, if this exists.
        unless: Option<PathBuf>,
    },
    /// Set an option of a socket, an int, back.
    SocketOption {
        /// The socket, or a duplicate of it.
        socket: BorrowedFd<'a>,
        /// SOL_SOCKET, IPPROTO_TCP ….
        level: i32,
        /// The option.
        name: i32,
        /// What it was.
        value: i32,
    },
    /// Send messages to a part of the kernel through netlink(7).
    Netlink {
        /// NETLINK_NETFILTER ….
        protocol: u16,
        /// The messages, as they are sent.
        messages: &'a [u8],
    },
    /// Remove a cgroup once its last process has ended, within seconds.
    RemoveCgroup {
        /// Its directory.
        path: PathBuf,
    },
    /// Remove a System V shared memory segment, if it is there by then and this
    /// process has created it.
    RemoveSegment {
        /// shmid.
        id: u32,
    },
    /// Write to a file of the kernel's, in one write.
    Write {
        /// The file.
        path: PathBuf,
        /// What is written.
        bytes: Vec<u8>,
    },
    /// Kill a process that lives until then, or has ended right before.
    Kill {
        /// Its pid.
        pid: u32,
    },
}

/// Something the guardian has been told, by which it can be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    at: u64,
}

/// A guardian on watch. Dropped without [`dismiss`](Self::dismiss), it undoes
/// everything, the latest first.
#[derive(Debug)]
pub struct Guardian {
    pid: libc::pid_t,
    /// Its end is what the guardian waits for.
    watched: Option<OwnedFd>,
    orders: File,
    end: u64,
    /// Descriptors it was sent.
    sent: u32,
}

// An order: kind, whether it holds, lengths of its two parts, the parts: paths
// with their NULs; or the numbers of an option; or a protocol and messages.
const HEADER: usize = 6;
const FILE: u8 = 1;
const DIR: u8 = 2;
const OPTION: u8 = 3;
const NETLINK: u8 = 4;
const ALIVE: u8 = 5;
const CGROUP: u8 = 6;
const WRITE: u8 = 7;
const KILL: u8 = 8;
const SEGMENT: u8 = 9;
const VOID: u8 = 0;

/// The number under which the guardian has the first descriptor it was sent.
const FIRST: u32 = 2;
/// Descriptors it can be sent with the limit on open files that everyone has.
const MOST: u32 = 1000;
/// How long a process that is to be undone only while it lives may take to
/// end, when it has been killed right before icecore was, ms.
const DYING: i32 = 100;

impl Guardian {
    /// Puts a guardian on watch.
    ///
    /// # Errors
    /// Where there can be no socket, memory file or process; then nothing may be
    /// changed that would need one.
    pub fn spawn() -> io::Result<Self> {
        // SAFETY: the name is a NUL-terminated literal.
        let orders = unsafe {
            owned(libc::memfd_create(
                c"icecore-orders".as_ptr(),
                libc::MFD_CLOEXEC,
            ))?
        };
        let mut ends = [0; 2];
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        // SAFETY: room for two descriptors.
        if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: socketpair has just made both; nobody else owns them.
        let (end, watched) =
            unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        // No signal at its end: a caller that waits for any child is not
        // disturbed.
        // SAFETY: a fork; the child goes to `watch` at once, which never
        // returns and makes nothing but system calls.
        let pid = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => watch(end.as_raw_fd(), orders.as_raw_fd()),
            pid => Ok(Self {
                pid: pid as libc::pid_t,
                watched: Some(watched),
                orders: orders.into(),
                end: 0,
                sent: 0,
            }),
        }
    }

    /// Tells it what to undo, before it is done. Paths are made absolute.
    ///
    /// # Errors
    /// Where it could not be told: then it must not be done.
    pub fn undo_later(&mut self, undo: &Undo<'_>) -> io::Result<Told> {
        match undo {
            Undo::RemoveFile { path, unless } => self.path_order(FILE, path, unless.as_deref()),
            Undo::RemoveDir { path, unless } => self.path_order(DIR, path, unless.as_deref()),
            Undo::SocketOption {
                socket,
                level,
                name,
                value,
            } => {
                let number = self.send(*socket)? as i32;
                let numbers = [number, *level, *name, *value].map(i32::to_ne_bytes);
                self.order(OPTION, numbers.as_flattened(), &[])
            }
            Undo::Netlink { protocol, messages } => {
                self.order(NETLINK, &protocol.to_ne_bytes(), messages)
            }
            Undo::RemoveCgroup { path } => self.order(CGROUP, &c_path(path)?, &[]),
            Undo::RemoveSegment { id } => {
                let numbers = [*id, std::process::id()].map(u32::to_ne_bytes);
                self.order(SEGMENT, numbers.as_flattened(), &[])
            }
            Undo::Write { path, bytes } => self.order(WRITE, &c_path(path)?, bytes),
            Undo::Kill { pid } => self.order(KILL, &pid.to_ne_bytes(), &[]),
        }
    }

    /// Options and messages, told before or later, are sent only if this
    /// process (a pidfd) is still alive then: what is done to a dead one's
    /// sockets is meant to stay.
    pub fn only_while(&mut self, alive: BorrowedFd<'_>) -> io::Result<Told> {
        let number = self.send(alive)? as i32;
        self.order(ALIVE, &number.to_ne_bytes(), &[])
    }

    fn path_order(&mut self, kind: u8, path: &Path, unless: Option<&Path>) -> io::Result<Told> {
        let unless = unless.map(c_path).transpose()?;
        self.order(kind, &c_path(path)?, &unless.unwrap_or_default())
    }

    fn order(&mut self, kind: u8, first: &[u8], second: &[u8]) -> io::Result<Told> {
        let mut order = vec![kind, 1];
        for part in [first, second] {
            let len = u16::try_from(part.len()).map_err(|_| io::ErrorKind::InvalidFilename)?;
            order.extend(len.to_ne_bytes());
        }
        order.extend(first);
        order.extend(second);
        self.orders.write_all_at(&order, self.end)?;
        let told = Told { at: self.end };
        self.end += order.len() as u64;
        Ok(told)
    }

    /// Hands it a descriptor; the number it has there. It is the guardian's as
    /// soon as it lies in the socket, whether it has been taken out or not.
    fn send(&mut self, fd: BorrowedFd<'_>) -> io::Result<u32> {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        let guardian = self.watched.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        if self.sent == MOST {
            return Err(io::Error::other("too many sockets to be set back"));
        }
        let fds = [fd];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let byte = [io::IoSlice::new(&[0])];
        sendmsg(guardian.as_fd(), &byte, &mut control, SendFlags::NOSIGNAL)?;
        self.sent += 1;
        Ok(FIRST + self.sent - 1)
    }

    /// Takes one thing back: it is there to stay, or has been undone.
    pub fn forget(&mut self, told: Told) -> io::Result<()> {
        self.orders.write_all_at(&[VOID], told.at + 1)
    }

    /// Takes everything back, without ending the watch: everything is there to
    /// stay.
    pub fn forget_all(&mut self) -> io::Result<()> {
        self.end = 0;
        self.orders.set_len(0)
    }

    /// Takes everything back and ends the watch.
    pub fn dismiss(mut self) -> io::Result<()> {
        self.forget_all()?;
        self.end_watch();
        Ok(())
    }

    fn end_watch(&mut self) {
        if self.watched.take().is_none() {
            return;
        }
        // SAFETY: no status is asked for.
        while unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL) } == -1
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.end_watch();
    }
}

fn c_path(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = std::path::absolute(path)?.as_os_str().as_bytes().to_vec();
    if bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    bytes.push(0);
    Ok(bytes)
}

/// # Safety
/// `fd` must be a descriptor that nobody else owns, or -1.
unsafe fn owned(fd: i32) -> io::Result<OwnedFd> {
    match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: as the caller promises.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// The guardian's life: nothing but system calls.
fn watch(end: i32, orders: i32) -> ! {
    // SAFETY: none of these touch memory but the bytes and the set named.
    unsafe {
        libc::setsid();
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        libc::prctl(libc::PR_SET_NAME, NAME.as_ptr());
        libc::chdir(c"/".as_ptr());
        // Where they lie at 0 and 1 already, they are moved away first.
        let end = libc::fcntl(end, libc::F_DUPFD, 10);
        let orders = libc::fcntl(orders, libc::F_DUPFD, 10);
        libc::dup2(end, 0);
        libc::dup2(orders, 1);
        libc::syscall(libc::SYS_close_range, 2, u32::MAX, 0);
    }
    while receive() {}
    obey();
    // SAFETY: ends this process.
    unsafe { libc::_exit(0) }
}

/// Takes one message of icecore's and the descriptor in it, which gets the next
/// number, as none is ever closed. False: icecore has ended.
fn receive() -> bool {
    let mut byte = 0u8;
    let mut part = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut control = [0u64; 8];
    // SAFETY: a message header of zeros is valid; it then points to `part` and
    // `control`, which outlive the call.
    let got = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        libc::recvmsg(0, &raw mut message, 0)
    };
    got != 0
}

/// Maps the orders and carries them out, the last one first.
fn obey() {
    // SAFETY: a stat buffer of zeros is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is live.
    if unsafe { libc::fstat(1, &raw mut stat) } != 0 || stat.st_size <= 0 {
        return;
    }
    let len = stat.st_size as usize;
    // SAFETY: a new mapping.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ,
            libc::MAP_PRIVATE,
            1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return;
    }
    // SAFETY: mapped, `len` bytes long, and written by nobody any more.
    let orders = unsafe { std::slice::from_raw_parts(at.cast::<u8>(), len) };
    let count = Orders(orders).count();
    let over = Orders(orders).any(|order| order.kind == ALIVE && order.holds && ended(&order));
    for i in (0..count).rev() {
        match Orders(orders).nth(i) {
            Some(order) if !order.holds => {}
            Some(order) => match order.kind {
                FILE | DIR => remove(&order),
                OPTION if !over => set_option(&order),
                NETLINK if !over => send_netlink(&order),
                CGROUP => remove_cgroup(order.first),
                SEGMENT => remove_segment(&order),
                WRITE => write(order.first, order.second),
                KILL => kill(&order),
                _ => {}
            },
            None => {}
        }
    }
}

struct Order<'a> {
    kind: u8,
    holds: bool,
    first: &'a [u8],
    second: &'a [u8],
}

struct Orders<'a>(&'a [u8]);

impl<'a> Iterator for Orders<'a> {
    type Item = Order<'a>;

    fn next(&mut self) -> Option<Order<'a>> {
        let (header, rest) = self.0.split_at_checked(HEADER)?;
        let first = u16::from_ne_bytes([header[2], header[3]]) as usize;
        let second = u16::from_ne_bytes([header[4], header[5]]) as usize;
        let (first, rest) = rest.split_at_checked(first)?;
        let (second, rest) = rest.split_at_checked(second)?;
        self.0 = rest;
        Some(Order {
            kind: header[0],
            holds: header[1] != VOID,
            first,
            second,
        })
    }
}

/// Removes a file or directory; both parts end with a NUL, the second may be
/// empty.
fn remove(order: &Order<'_>) {
    let (path, unless) = (order.first, order.second);
    if path.last() != Some(&0) {
        return;
    }
    // SAFETY: checked to end with a NUL.
    if unless.last() == Some(&0) && unsafe { libc::access(unless.as_ptr().cast(), libc::F_OK) } == 0
    {
        return;
    }
    // SAFETY: the path has just been checked to end with a NUL.
    unsafe {
        match order.kind {
            FILE => libc::unlink(path.as_ptr().cast()),
            _ => libc::rmdir(path.as_ptr().cast()),
        };
    }
}

/// The `n`th number of an order.
fn number(order: &Order<'_>, n: usize) -> Option<i32> {
    let bytes = order.first.get(n * 4..)?.first_chunk::<4>()?;
    Some(i32::from_ne_bytes(*bytes))
}

fn kill(order: &Order<'_>) {
    if let Some(pid) = number(order, 0).filter(|pid| *pid > 1) {
        // SAFETY: takes numbers only.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}

fn remove_segment(order: &Order<'_>) {
    let (Some(id), Some(creator)) = (number(order, 0), number(order, 1)) else {
        return;
    };
    // SAFETY: a buffer of zeros is valid, and it is live.
    unsafe {
        let mut stat: libc::shmid_ds = std::mem::zeroed();
        if libc::shmctl(id, libc::IPC_STAT, &raw mut stat) == 0 && stat.shm_cpid == creator {
            libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut());
        }
    }
}

fn set_option(order: &Order<'_>) {
    let numbers = [0, 1, 2, 3].map(|n| number(order, n));
    let [Some(socket), Some(level), Some(name), Some(value)] = numbers else {
        return;
    };
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel reads four bytes at `value`.
    unsafe { libc::setsockopt(socket, level, name, (&raw const value).cast(), len) };
}

fn send_netlink(order: &Order<'_>) {
    let Some(protocol) = order.first.first_chunk::<2>() else {
        return;
    };
    let protocol = i32::from(u16::from_ne_bytes(*protocol));
    // SAFETY: the kernel reads the messages, which are live.
    unsafe {
        let socket = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol);
        let (messages, len) = (order.second.as_ptr().cast(), order.second.len());
        libc::send(socket, messages, len, 0);
    }
}

/// Whether a process has ended, or is about to.
fn ended(order: &Order<'_>) -> bool {
    let Some(fd) = number(order, 0) else {
        return false;
    };
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry.
    unsafe { libc::poll(&raw mut poll, 1, DYING) == 1 && poll.revents & libc::POLLIN != 0 }
}

/// Removes a directory whose members are just ending.
fn remove_cgroup(path: &[u8]) {
    if path.last() != Some(&0) {
        return;
    }
    const TRIES: u32 = 500;
    let pause = libc::timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    for _ in 0..TRIES {
        // SAFETY: checked to end with a NUL; the
        // error number is this thread's own.
        let busy = unsafe {
            libc::rmdir(path.as_ptr().cast()) != 0 && *libc::__errno_location() == libc::EBUSY
        };
        if !busy {
            return;
        }
        // SAFETY: `pause` is live; the rest is not asked for.
        unsafe { libc::nanosleep(&raw const pause, std::ptr::null_mut()) };
    }
}

fn write(path: &[u8], bytes: &[u8]) {
    if path.last() != Some(&0) {
        return;
    }
    // SAFETY: checked to end with a NUL; `bytes` is
    // live, and the descriptor this function's own.
    unsafe {
        let fd = libc::open(path.as_ptr().cast(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd >= 0 {
            libc::write(fd, bytes.as_ptr().cast(), bytes.len());
            libc::close(fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there() -> io::Result<(tempfile::TempDir, PathBuf, PathBuf)> {
        let dir = tempfile::tempdir()?;
        let (inner, file) = (dir.path().join("d"), dir.path().join("d/f"));
        std::fs::create_dir(&inner)?;
        std::fs::write(&file, "x")?;
        Ok((dir, inner, file))
    }

    fn tell(guardian: &mut Guardian, inner: &Path, file: &Path) -> io::Result<Told> {
        let (path, unless) = (inner.to_owned(), None);
        guardian.undo_later(&Undo::RemoveDir { path, unless })?;
        let (path, unless) = (file.to_owned(), None);
        guardian.undo_later(&Undo::RemoveFile { path, unless })
    }

    #[test]
    fn what_is_not_taken_back_is_undone_latest_first() -> io::Result<()> {
        let (_dir, inner, file) = there()?;
        let mut guardian = Guardian::spawn()?;
        tell(&mut guardian, &inner, &file)?;
        assert!(file.exists());
        drop(guardian);
        assert!(!inner.exists());
        Ok(())
    }

    #[test]
    fn what_is_taken_back_stays() -> io::Result<()> {
        let (_dir, inner, file) = there()?;
        let mut guardian = Guardian::spawn()?;
        tell(&mut guardian, &inner, &file)?;
        guardian.dismiss()?;
        assert!(file.exists());

        let mut guardian = Guardian::spawn()?;
        let told = tell(&mut guardian, &inner, &file)?;
        guardian.forget(told)?;
        drop(guardian);
        assert!(file.exists());
        Ok(())
    }

    fn peeked(option: i32) -> io::Result<(Guardian, std::os::unix::net::UnixStream)> {
        let (socket, _) = std::os::unix::net::UnixStream::pair()?;
        let mut guardian = Guardian::spawn()?;
        for value in [-1, option] {
            guardian.undo_later(&Undo::SocketOption {
                socket: socket.as_fd(),
                level: libc::SOL_SOCKET,
                name: libc::SO_PEEK_OFF,
                value,
            })?;
            crate::kernel::socket_option::set(&socket, libc::SO_PEEK_OFF, 7)?;
        }
        Ok((guardian, socket))
    }

    fn offset(socket: impl AsFd) -> io::Result<i32> {
        crate::kernel::socket_option::get(socket, libc::SO_PEEK_OFF)
    }

    #[test]
    fn options_of_sockets_are_set_back_in_order() -> io::Result<()> {
        let (guardian, socket) = peeked(3)?;
        assert_eq!(offset(&socket)?, 7);
        drop(guardian);
        assert_eq!(offset(&socket)?, -1);
        Ok(())
    }

    #[test]
    fn options_of_a_process_that_has_ended_stay() -> io::Result<()> {
        let mut child = std::process::Command::new("true").spawn()?;
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        child.wait()?;
        let (mut guardian, socket) = peeked(3)?;
        guardian.only_while(pidfd.as_fd())?;
        drop(guardian);
        assert_eq!(offset(&socket)?, 7);
        Ok(())
    }

    #[test]
    fn what_was_written_is_written_back() -> io::Result<()> {
        let (_dir, _inner, file) = there()?;
        let mut guardian = Guardian::spawn()?;
        let (path, bytes) = (file.clone(), b"y".to_vec());
        guardian.undo_later(&Undo::Write { path, bytes })?;
        assert_eq!(std::fs::read(&file)?, b"x");
        drop(guardian);
        assert_eq!(std::fs::read(&file)?, b"y");
        Ok(())
    }

    #[test]
    fn what_depends_on_a_file_is_left_where_it_exists() -> io::Result<()> {
        let (dir, _inner, file) = there()?;
        let mut guardian = Guardian::spawn()?;
        let unless = Some(dir.path().to_owned());
        let path = file.clone();
        guardian.undo_later(&Undo::RemoveFile { path, unless })?;
        drop(guardian);
        assert!(file.exists());
        Ok(())
    }
}
