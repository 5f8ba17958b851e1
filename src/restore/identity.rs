//! Doing things to sockets in the name of whoever did them at first: SO_PEERCRED
//! shows it, and credentials can be sent only of processes that exist.
//!
//! What is not to be had is left out, which the plan has said aloud: the pid,
//! where the tasks get others or where somebody has it now; the user, without
//! privileges.

use std::io;
use std::os::fd::OwnedFd;

use icecore_images::unix::UnixCredentials;
use rustix::net::SocketType;

use crate::kernel::stand_in::{self, Who};
use crate::kernel::unix_message::{self, Outgoing};

/// Who does things.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity<'a> {
    credentials: Option<&'a UnixCredentials>,
    pids: bool,
}

impl<'a> Identity<'a> {
    /// Whose credentials these are; `pids`: pids mean what they meant.
    pub(super) fn new(credentials: Option<&'a UnixCredentials>, pids: bool) -> Self {
        Self { credentials, pids }
    }

    /// socketpair(2).
    pub(super) fn pair(&self, kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
        self.act(|who| stand_in::pair(who, kind))
    }

    /// listen(2).
    pub(super) fn listen(&self, socket: &OwnedFd, backlog: u32) -> io::Result<()> {
        self.act(|who| stand_in::listen(who, socket, backlog))
    }

    /// connect(2).
    pub(super) fn connect(&self, socket: &OwnedFd, name: &[u8]) -> io::Result<()> {
        self.act(|who| stand_in::connect(who, socket, name))
    }

    /// Tries as exactly as possible first.
    fn act<T>(&self, deed: impl Fn(&Who<'_>) -> io::Result<T>) -> io::Result<T> {
        let Some(of) = self.credentials else {
            return deed(&Who::default());
        };
        let pid = (self.pids && of.pid != 0).then_some(of.pid);
        let user = Some((of.uid, of.gid, &of.groups[..]));
        let anyone = Who::default();
        let tries = [
            Who { pid, user },
            Who { pid: None, user },
            Who { pid, user: None },
        ];
        for who in &tries {
            match deed(who) {
                Err(e) if refused(&e) => {}
                done => return done,
            }
        }
        deed(&anyone)
    }
}

/// The pid is taken, or the privilege is missing.
fn refused(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EEXIST | libc::EPERM | libc::EINVAL)
    )
}

/// Sends a message with its credentials, if need be by a process with that pid.
pub(super) fn send(socket: &OwnedFd, message: &Outgoing<'_>) -> io::Result<()> {
    let sent = unix_message::send(socket, message);
    match (&sent, message.credentials) {
        (Err(e), Some((pid, ..))) if e.raw_os_error() == Some(libc::ESRCH) => {
            let who = Who {
                pid: Some(pid.cast_unsigned()),
                user: None,
            };
            stand_in::send(&who, socket, message)
        }
        _ => sent,
    }
}
