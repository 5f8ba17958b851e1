//! Terminals: connections to whoever has their other end.

use std::os::unix::fs::MetadataExt;

use icecore_images::ByteString;
use icecore_images::connection::{ConnectionEnd, ConnectionPolicy, TtyConnection};
use icecore_images::files::FileKind;

use super::DumpContext;
use super::connection::{self, Options, Said};
use super::descriptor::Descriptor;
use super::descriptors::{Collection, named};
use crate::error::DumpError;
use crate::kernel::stat::Stat;
use crate::kernel::tty;
use crate::outside::OutsideKind;

/// Whether a device is a terminal: virtual consoles and serial lines, /dev/tty
/// and friends, both ends of pairs.
pub(super) fn is_one(rdev: u64) -> bool {
    matches!(libc::major(rdev), 4 | 5 | 128..=143 | 204 | 229)
}

/// A terminal as the rules have it; where there is none, that of whoever
/// restores it, if it belongs to a shell (`-j`).
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    all: &Collection,
    at: usize,
) -> Result<Option<FileKind>, DumpError> {
    let d = &all.descriptors[at];
    let duplicate = d.duplicate()?;
    let end = connection_of(ctx, d, &duplicate);
    // /dev/ptmx leads to a master, whose other end is what others have open.
    let device = (libc::major(d.meta.rdev()), libc::minor(d.meta.rdev()));
    let master = matches!(device, (5, 2) | (128..=135, _));
    let problem = format!("terminal {}: its other end is outside the dump", named(d));
    let said = Said {
        problem: &problem,
        options: Options {
            reconnect: match end.path.0.starts_with(b"/") && !master {
                true => Ok(()),
                false => Err("it cannot be opened again"),
            },
            close: match master {
                false => Ok(()),
                true => Err("it is the end that others' terminals depend on"),
            },
        },
    };
    let (kind, inode) = (OutsideKind::Tty, d.meta.ino());
    let of_caller = ctx.options.shell_job && ctx.options.outside.find(kind, inode).is_none();
    let policy = match of_caller && !master {
        true => Some(ConnectionPolicy::Caller),
        false => connection::decide(ctx, &d.place, kind, inode, &said),
    };
    Ok(policy.map(|policy| {
        let (id, end) = (all.descriptions[at], ConnectionEnd::Tty(end));
        FileKind::Connection(connection::carry(ctx, id, policy, end, duplicate))
    }))
}

fn connection_of(
    ctx: &DumpContext<'_>,
    d: &Descriptor,
    duplicate: &std::os::fd::OwnedFd,
) -> TtyConnection {
    let rdev = d.meta.rdev();
    let led = |&pid: &u32| {
        let stat = Stat::read(pid).ok().filter(|stat| stat.sid == pid);
        stat.is_some_and(|stat| device(stat.tty) == rdev)
    };
    let leader = ctx.members.processes().find(led);
    let any = ctx
        .members
        .processes()
        .filter_map(|pid| Stat::read(pid).ok());
    let mut of_it = any.filter(|stat| device(stat.tty) == rdev);
    let foreground = of_it.find_map(|stat| Some(stat.foreground).filter(|&group| group != 0));
    TtyConnection {
        path: ByteString::from(d.shown_bytes()),
        rdev,
        dev: d.meta.dev(),
        leader,
        foreground: foreground.filter(|&group| ctx.members.has_group(group)),
        termios: tty::settings(duplicate).unwrap_or_default().into(),
    }
}

/// A device number from the form in which stat shows it.
fn device(shown: u32) -> u64 {
    let minor = shown & 0xff | shown >> 12 & 0xf_ff00;
    libc::makedev(shown >> 8 & 0xfff, minor)
}
