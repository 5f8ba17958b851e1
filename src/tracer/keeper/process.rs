//! The keeper's life: system calls only, no allocation.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::AtFlags;
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, sockopt,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::protocol::{
    BAD, BATCH, DENIED, DONE, FOREIGN, HEADER, Header, LENT, LIST, LIST_HEADER, OK, READY, RELEASE,
    REQUEST, TAKE,
};
use super::{Charge, ENDING, GONE, HERE, SOCKET_C};

/// All that a keeper has.
pub(super) struct Parts {
    pub(super) charge: Charge,
    pub(super) control: OwnedFd,
    pub(super) listener: OwnedFd,
    pub(super) dir: OwnedFd,
    /// Tells of files removed from `dir`; `None` where the user has too many
    /// inotify instances already.
    pub(super) removals: Option<OwnedFd>,
}

/// Callers at one time; more are turned away.
const CALLERS: usize = 16;

/// What stands for the directory among those who have something to say.
const REMOVED: usize = CALLERS + 1;

/// How long a process that has been killed may take to be gone.
const DYING: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// Forks the keeper, as nobody's child.
pub(super) fn start(parts: Parts) -> io::Result<()> {
    let mut life = Life::prepare(parts);
    let numbers = life.numbers();
    // SAFETY: a fork; the child makes system calls only and never returns.
    let pid = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
    match pid {
        -1 => return Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: as above; the one in between ends at once.
            unsafe {
                if libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) == 0 {
                    settle(&numbers, &life.parts.charge.oom_score_adj);
                    life.live();
                }
                libc::_exit(0)
            }
        }
        _ => {}
    }
    // SAFETY: no status is asked for.
    while unsafe { libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), libc::__WALL) } == -1
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
    Ok(())
}

/// A session of its own, no descriptor but `numbers`, no signal but those that
/// are meant to end it.
fn settle(numbers: &[u32], oom_score_adj: &str) {
    // SAFETY: none of these touch memory but the set and the bytes named.
    unsafe {
        libc::setsid();
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        for signal in [libc::SIGTERM, libc::SIGINT] {
            libc::signal(signal, libc::SIG_DFL);
            libc::sigdelset(&raw mut set, signal);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        libc::prctl(libc::PR_SET_NAME, c"icecore-keeper".as_ptr());
        libc::chdir(c"/".as_ptr());
        let mut from = 0;
        for &number in numbers {
            if number > from {
                libc::syscall(libc::SYS_close_range, from, number - 1, 0);
            }
            from = number + 1;
        }
        libc::syscall(libc::SYS_close_range, from, u32::MAX, 0);
        // icecore is the first to go when memory runs out; this is not.
        let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY);
        if file >= 0 {
            libc::write(file, oom_score_adj.as_ptr().cast(), oom_score_adj.len());
            libc::close(file);
        }
    }
}

/// Whoever has connected.
#[derive(Default)]
struct Caller {
    socket: Option<OwnedFd>,
    pid: u32,
    /// Has taken the descriptors.
    borrows: bool,
    /// The task they are for, once it is about to run.
    task: Option<OwnedFd>,
}

struct Life {
    parts: Parts,
    /// An answer to LIST, to be completed.
    list: Vec<u8>,
    callers: [Caller; CALLERS],
}

/// What a request has led to.
enum Then {
    GoOn,
    HangUp,
    End,
}

impl Life {
    fn prepare(parts: Parts) -> Self {
        let mut list = vec![0; LIST_HEADER];
        for (name, _) in &parts.charge.kept {
            list.extend_from_slice(&name.to_le_bytes());
        }
        Self {
            parts,
            list,
            callers: Default::default(),
        }
    }

    /// Its descriptors, in order.
    fn numbers(&self) -> Vec<u32> {
        let Parts {
            charge,
            control,
            listener,
            dir,
            removals,
        } = &self.parts;
        let kept = charge.kept.iter().map(|(_, fd)| fd);
        let own = [control, listener, dir, &charge.target];
        let all = kept.chain(own).chain(removals);
        let mut numbers: Vec<u32> = all.map(|fd| fd.as_raw_fd() as u32).collect();
        numbers.sort_unstable();
        numbers
    }

    fn live(&mut self) -> ! {
        if self.until_target_is_gone() {
            // icecore waits for the end of the talk.
            let _ = rustix::net::shutdown(&self.parts.control, Shutdown::Both);
            self.serve();
        }
        let _ = rustix::fs::unlinkat(&self.parts.dir, SOCKET_C, AtFlags::empty());
        // SAFETY: ends this process, and with it all that it holds.
        unsafe { libc::_exit(0) }
    }

    /// Keeps watch over icecore. False: it has gone, and the target lives.
    fn until_target_is_gone(&self) -> bool {
        let control = &self.parts.control;
        let mut ending = false;
        let mut word = HERE;
        loop {
            if rustix::net::send(control, &[word], SendFlags::NOSIGNAL).is_err() {
                break;
            }
            match word {
                ENDING => ending = true,
                GONE => return true,
                _ => {}
            }
            let mut said = [0];
            let heard = retry(|| rustix::net::recv(control, &mut said[..], RecvFlags::empty()));
            match heard {
                Ok((1.., _)) => word = said[0],
                _ => break,
            }
        }
        ending && is_gone(&self.parts.charge.target)
    }

    /// Answers callers until the descriptors have been handed over.
    fn serve(&mut self) {
        let end = self.parts.charge.limit.map(|limit| now() + limit);
        loop {
            let left = end.map(|end| end.saturating_sub(now()));
            let lent = self.callers.iter().any(|caller| caller.borrows);
            if left.is_some_and(|left| left.is_zero()) && !lent {
                return;
            }
            match self.wait(left) {
                Some(0) => self.accept(),
                Some(REMOVED) if self.is_unreachable() && !lent => return,
                Some(REMOVED) => {}
                Some(n) => match self.hear(n - 1, left) {
                    Then::GoOn => {}
                    Then::HangUp if self.hang_up(n - 1) => return,
                    Then::HangUp => {}
                    Then::End => return,
                },
                None => {}
            }
        }
    }

    /// Whether its socket has been removed: with the image, mostly. Nobody can
    /// ask for anything any more.
    fn is_unreachable(&self) -> bool {
        let mut events = [0; 4096];
        if let Some(removals) = &self.parts.removals {
            let _ = retry(|| rustix::io::read(removals, &mut events[..]));
        }
        let found = rustix::fs::statat(&self.parts.dir, SOCKET_C, AtFlags::SYMLINK_NOFOLLOW);
        found.is_err_and(|e| e == Errno::NOENT)
    }

    /// Who has something to say: 0 somebody new, n caller n - 1, [`REMOVED`]
    /// the directory.
    fn wait(&self, left: Option<Duration>) -> Option<usize> {
        let limit = left.map(|left| Timespec {
            tv_sec: left.as_secs() as i64,
            // Never less than a millisecond: once the time is up, only a
            // borrower is waited for.
            tv_nsec: i64::from(left.subsec_nanos().max(1_000_000)),
        });
        let listener = &self.parts.listener;
        let mut fds: [PollFd<'_>; CALLERS + 2] =
            std::array::from_fn(|_| PollFd::new(listener, PollFlags::empty()));
        fds[0] = PollFd::new(listener, PollFlags::IN);
        let mut of = [0; CALLERS + 2];
        let mut count = 1;
        if let Some(removals) = &self.parts.removals {
            fds[count] = PollFd::new(removals, PollFlags::IN);
            of[count] = REMOVED;
            count += 1;
        }
        for (i, caller) in self.callers.iter().enumerate() {
            if let Some(socket) = &caller.socket {
                fds[count] = PollFd::new(socket, PollFlags::IN);
                of[count] = i + 1;
                count += 1;
            }
        }
        poll(&mut fds[..count], limit.as_ref()).ok()?;
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        fds[..count].iter().position(ready).map(|at| of[at])
    }

    fn accept(&mut self) {
        let how = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = rustix::net::accept_with(&self.parts.listener, how) else {
            return;
        };
        let Ok(who) = sockopt::socket_peercred(&socket) else {
            return;
        };
        let uid = who.uid.as_raw();
        // SAFETY: touches no memory.
        let own = unsafe { libc::geteuid() };
        if uid != own && uid != 0 {
            let denied = self.header(DENIED, 0).bytes();
            let _ = rustix::net::send(&socket, &denied, SendFlags::NOSIGNAL);
            return;
        }
        let mut free = self.callers.iter_mut();
        if let Some(caller) = free.find(|caller| caller.socket.is_none()) {
            caller.socket = Some(socket);
            caller.pid = who.pid.as_raw_nonzero().get() as u32;
        }
    }

    fn header(&self, word: u32, value: u64) -> Header {
        Header {
            word,
            image: self.parts.charge.image,
            value,
        }
    }

    fn hear(&mut self, n: usize, left: Option<Duration>) -> Then {
        let mut packet = [0; REQUEST];
        let Some(socket) = &self.callers[n].socket else {
            return Then::HangUp;
        };
        let heard = retry(|| rustix::net::recv(socket, &mut packet[..], RecvFlags::empty()));
        let request = match heard {
            Ok((1.., _)) => Header::of(&packet),
            Err(Errno::AGAIN) => return Then::GoOn,
            _ => return Then::HangUp,
        };
        let Some(request) = request else {
            return self.say(n, BAD, 0);
        };
        if request.image != self.parts.charge.image {
            return self.say(n, FOREIGN, 0);
        }
        let borrower = self.callers.iter().position(|caller| caller.borrows);
        let lent = borrower.filter(|&b| b != n).map(|b| self.callers[b].pid);
        match (request.word, lent) {
            (LIST, _) => self.tell(n, borrower, left),
            (TAKE | RELEASE, Some(pid)) => self.say(n, LENT, pid.into()),
            (TAKE, None) => self.give(n, request.value),
            (READY, _) if borrower == Some(n) => self.ready(n, request.value),
            (DONE, _) if borrower == Some(n) => self.end(n),
            (RELEASE, None) => self.end(n),
            _ => self.say(n, BAD, 0),
        }
    }

    fn say(&self, n: usize, word: u32, value: u64) -> Then {
        let packet = self.header(word, value).bytes();
        match &self.callers[n].socket {
            Some(socket) if rustix::net::send(socket, &packet, SendFlags::NOSIGNAL).is_ok() => {
                Then::GoOn
            }
            _ => Then::HangUp,
        }
    }

    fn tell(&mut self, n: usize, borrower: Option<usize>, left: Option<Duration>) -> Then {
        // SAFETY: touches no memory.
        let own = unsafe { libc::getpid() } as u32;
        let lent = borrower.map_or(0, |b| self.callers[b].pid);
        let left = left.map_or(u64::MAX, |left| left.as_secs());
        let header = self.header(OK, self.parts.charge.kept.len() as u64);
        self.list[..HEADER].copy_from_slice(&header.bytes());
        self.list[HEADER..HEADER + 4].copy_from_slice(&own.to_le_bytes());
        self.list[HEADER + 4..HEADER + 8].copy_from_slice(&lent.to_le_bytes());
        self.list[HEADER + 8..LIST_HEADER].copy_from_slice(&left.to_le_bytes());
        match &self.callers[n].socket {
            Some(socket) if rustix::net::send(socket, &self.list, SendFlags::NOSIGNAL).is_ok() => {
                Then::GoOn
            }
            _ => Then::HangUp,
        }
    }

    /// Duplicates of as many descriptors as a packet takes.
    fn give(&mut self, n: usize, first: u64) -> Then {
        let kept = &self.parts.charge.kept;
        let first = usize::try_from(first).unwrap_or(usize::MAX).min(kept.len());
        let batch = &kept[first..kept.len().min(first + BATCH)];
        let mut packet = [0; HEADER + 4 * BATCH];
        let header = self.header(OK, batch.len() as u64);
        packet[..HEADER].copy_from_slice(&header.bytes());
        let nothing: BorrowedFd<'_> = borrowed(&self.parts.dir);
        let mut fds = [nothing; BATCH];
        for (i, (name, fd)) in batch.iter().enumerate() {
            packet[HEADER + 4 * i..HEADER + 4 * i + 4].copy_from_slice(&name.to_le_bytes());
            fds[i] = borrowed(fd);
        }
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut with = SendAncillaryBuffer::new(&mut room);
        if !batch.is_empty() {
            with.push(SendAncillaryMessage::ScmRights(&fds[..batch.len()]));
        }
        let Some(socket) = &self.callers[n].socket else {
            return Then::HangUp;
        };
        let bytes = [io::IoSlice::new(&packet[..HEADER + 4 * batch.len()])];
        match rustix::net::sendmsg(socket, &bytes, &mut with, SendFlags::NOSIGNAL) {
            Ok(_) => {
                self.callers[n].borrows = true;
                Then::GoOn
            }
            Err(_) => Then::HangUp,
        }
    }

    fn ready(&mut self, n: usize, pid: u64) -> Then {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let task = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let known = task.is_some();
        self.callers[n].task = task;
        self.say(n, if known { OK } else { BAD }, 0)
    }

    fn end(&self, n: usize) -> Then {
        let _ = self.say(n, OK, 0);
        Then::End
    }

    /// The caller has gone. True: what it took is in use now.
    fn hang_up(&mut self, n: usize) -> bool {
        let caller = std::mem::take(&mut self.callers[n]);
        match caller.task {
            // Until it runs a task dies with whoever restores it.
            Some(task) if caller.borrows => !is_gone(&task),
            _ => false,
        }
    }
}

fn borrowed(fd: &OwnedFd) -> BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(fd)
}

/// Whether a process has ended, or does so now.
fn is_gone(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(retry(|| poll(&mut fds, Some(&DYING))), Ok(1..))
}

fn now() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}
