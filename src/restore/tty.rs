//! Terminals of the outside: found again, hung up, or that of whoever restores
//! the task; and whose controlling terminal they are.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use icecore_images::connection::{ConnectionEnd, TtyConnection};
use icecore_images::files::FileKind;
use icecore_images::task::TaskState;
use rustix::fs::{CWD, Mode, OFlags, open, openat};

use super::RestoreContext;
use super::descriptors::{table, values};
use crate::kernel::tty;
use crate::tracer::{Arg, Script};

/// The terminal under its name: another one may have the name by now.
pub(super) fn reopen(state: &TtyConnection, flags: OFlags) -> io::Result<OwnedFd> {
    let path = super::file_ref::as_path(&state.path);
    let tty = open(
        path,
        flags | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    )?;
    match tty::is_one(&tty) {
        true => Ok(tty),
        false => Err(io::Error::other("it is no terminal any more")),
    }
}

/// One whose other end has been closed.
pub(super) fn hung_up(flags: OFlags) -> io::Result<OwnedFd> {
    tty::hung_up(flags.bits().cast_signed())
}

/// The terminal of the process that restores.
pub(super) fn of_caller(flags: OFlags) -> io::Result<OwnedFd> {
    let how = flags | OFlags::NOCTTY | OFlags::CLOEXEC;
    let streams = [
        std::io::stdin().as_fd().try_clone_to_owned(),
        std::io::stdout().as_fd().try_clone_to_owned(),
        std::io::stderr().as_fd().try_clone_to_owned(),
    ];
    let mut streams = streams.into_iter().flatten().filter(|fd| tty::is_one(fd));
    let own = match streams.next() {
        Some(stream) => super::ghost::reopen(&stream, how)?,
        None => openat(CWD, "/dev/tty", how, Mode::empty())?,
    };
    Ok(own)
}

/// Makes a kept terminal the controlling one of the session leader that it was
/// taken from, with its group in the foreground; in the leader.
pub(super) fn control(ctx: &RestoreContext<'_>, task: &TaskState, script: &mut Script) {
    let Some(table) = table(ctx, task) else {
        return;
    };
    let found = table.entries.iter().find_map(|entry| {
        let file = ctx.image.files.get(entry.description.0 as usize)?;
        match &file.kind {
            FileKind::Connection(state) => match &state.end {
                ConnectionEnd::Tty(tty) if tty.leader == Some(task.pid) => Some((entry.fd, tty)),
                _ => None,
            },
            _ => None,
        }
    });
    let Some((fd, tty)) = found else {
        return;
    };
    let args = values([fd.into(), libc::TIOCSCTTY, 0]);
    script.call(
        "take its controlling terminal",
        libc::SYS_ioctl as u32,
        args,
    );
    if let Some(group) = tty.foreground {
        let group = script.bytes(&group.to_le_bytes());
        let args = [
            Arg::Value(fd.into()),
            Arg::Value(libc::TIOCSPGRP),
            group.into(),
        ];
        let what = "put its group into the foreground";
        script.call(what, libc::SYS_ioctl as u32, args);
    }
}
