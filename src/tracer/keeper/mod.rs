//! The keeper: a small process that holds open file descriptions between a
//! dump and a restore.
//!
//! It is forked while the target stands still, in a session of its own, and
//! holds nothing but what it keeps, its socket in the image directory and the
//! directory. As long as the target is not known to be gone it lets everything
//! go as soon as icecore is; from then on it waits for whoever asks on its
//! socket, and ends when that has been removed, as it is with the image.
//! Between fork and end it makes system calls only, and allocates
//! nothing: icecore may have other threads, whose locks it has inherited.

mod process;
pub mod protocol;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, Mode, OFlags, inotify};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::time::Timespec;

/// Name of its socket in the directory of the image.
pub const SOCKET: &str = "keeper.sock";

/// The same for system calls.
const SOCKET_C: &std::ffi::CStr = c"keeper.sock";

/// icecore says that it will end the target now, and that it is gone; the
/// keeper repeats either, after saying that it is there.
const HERE: u8 = b'h';
const ENDING: u8 = b'e';
const GONE: u8 = b'g';

/// How long it is waited for.
const PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// What a keeper is to keep.
#[derive(Debug)]
pub struct Charge {
    /// Id of the image.
    pub image: [u8; 16],
    /// Descriptors of ours by names that the image uses for them.
    pub kept: Vec<(u32, OwnedFd)>,
    /// A pidfd of the target.
    pub target: OwnedFd,
    /// Time after which it lets everything go.
    pub limit: Option<Duration>,
    /// oom_score_adj it gets.
    pub oom_score_adj: String,
}

/// A keeper that lets everything go when this is dropped, until it has been
/// told that the target is gone.
#[derive(Debug)]
pub struct Keeper {
    control: OwnedFd,
}

impl Keeper {
    /// Starts one for the image in `dir`.
    ///
    /// # Errors
    /// Where there can be no socket or process.
    pub fn spawn(dir: &Path, charge: Charge) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(dir, flags, Mode::empty())?;
        let listener = listen(&dir)?;
        let (control, end) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        process::start(process::Parts {
            charge,
            control: end,
            listener,
            removals: watch_removals(&dir),
            dir,
        })?;
        let keeper = Self { control };
        keeper.hear(HERE)?;
        Ok(keeper)
    }

    /// Tells it that the target is about to end: if icecore does not live to
    /// say that it has, the keeper looks for itself.
    pub fn target_ends(&self) -> io::Result<()> {
        self.say(ENDING)
    }

    /// Tells it that the target is gone: from now on it is on its own.
    pub fn target_is_gone(self) -> io::Result<()> {
        self.say(GONE)
    }

    fn say(&self, word: u8) -> io::Result<()> {
        rustix::net::send(&self.control, &[word], SendFlags::NOSIGNAL)?;
        self.hear(word)
    }

    fn hear(&self, word: u8) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.control, PollFlags::IN)];
        if poll(&mut fds, Some(&PATIENCE))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut answer = [0];
        let (n, _) = rustix::net::recv(&self.control, &mut answer[..], RecvFlags::empty())?;
        match n == 1 && answer[0] == word {
            true => Ok(()),
            false => Err(io::Error::other("the keeper has ended")),
        }
    }
}

impl Drop for Keeper {
    /// Waits until it has gone: what it held is as if it had never been.
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.control, Shutdown::Write);
        let mut fds = [PollFd::new(&self.control, PollFlags::empty())];
        let _ = poll(&mut fds, Some(&PATIENCE));
    }
}

/// The path of the socket, short enough for an address.
pub fn socket_path(dir: &OwnedFd) -> String {
    format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())
}

/// What tells of files removed from the directory, and of its own end.
fn watch_removals(dir: &OwnedFd) -> Option<OwnedFd> {
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let watch = inotify::init(flags).ok()?;
    let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
    let removals = inotify::WatchFlags::DELETE | inotify::WatchFlags::DELETE_SELF;
    inotify::add_watch(&watch, path, removals).ok()?;
    Some(watch)
}

/// A socket that only its owner may connect to, in place of one that nobody
/// listens at any more.
fn listen(dir: &OwnedFd) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    // The file gets the mode that the socket has when it is bound.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    let _ = rustix::fs::unlinkat(
        dir,
        Path::new(SOCKET).as_os_str().as_bytes(),
        AtFlags::empty(),
    );
    rustix::net::bind(&socket, &SocketAddrUnix::new(socket_path(dir))?)?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}
