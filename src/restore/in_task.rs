//! What only the task itself can open: pidfds of itself and of its threads,
//! and its own files below `/proc`.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use icecore_images::files::{FdTable, FileKind, OpenFile};
use icecore_images::ids::DescriptionId;
use icecore_images::proc_file::ProcFileState;
use rustix::fs::{CWD, Mode, OFlags};

use super::RestoreContext;
use super::descriptors::{duplicate, first_number, values};
use super::regular;
use crate::tracer::{Arg, Script};

/// Whether it is about the task, and not about the machine.
pub(super) fn is_own(file: &OpenFile) -> bool {
    match &file.kind {
        FileKind::PidFd(_) => true,
        FileKind::Proc(state) => process_of(&state.path.0).is_some(),
        _ => false,
    }
}

/// The process a path below `/proc` is about, and the rest of the path.
fn process_of(path: &[u8]) -> Option<(u32, &[u8])> {
    let rest = path.strip_prefix(b"/proc/")?;
    let end = rest.iter().position(|&b| b == b'/').unwrap_or(rest.len());
    let pid = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    Some((pid, &rest[end..]))
}

/// Opens a file about the machine.
pub(super) fn open_shared(
    state: &ProcFileState,
    flags: OFlags,
    position: u64,
) -> std::io::Result<OwnedFd> {
    let path = std::ffi::OsStr::from_bytes(&state.path.0);
    let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    regular::at(fd, flags, position)
}

/// Whether it exists only once the task has all its threads.
fn needs_threads(file: &OpenFile, pid: u32) -> bool {
    match &file.kind {
        FileKind::PidFd(state) => state.pid != pid,
        FileKind::Proc(state) => {
            process_of(&state.path.0).is_some_and(|(_, rest)| rest.starts_with(b"/task"))
        }
        _ => false,
    }
}

/// Opens what needs nothing but the task, with everything else in place and
/// exactly `taken` open: so it is known which number an open gets.
pub(super) fn open_early(
    ctx: &RestoreContext<'_>,
    table: &FdTable,
    taken: BTreeSet<u32>,
    script: &mut Script,
) {
    open_those(ctx, table, taken, script, false);
}

/// Opens what needs the task's threads, with everything else in place.
pub(super) fn open_late(ctx: &RestoreContext<'_>, table: &FdTable, script: &mut Script) {
    let pid = owner(ctx, table);
    let own = ctx.image.files.iter().filter(|file| is_own(file));
    let late: BTreeSet<DescriptionId> = own
        .filter(|file| needs_threads(file, pid))
        .map(|file| file.id)
        .collect();
    let placed = table
        .entries
        .iter()
        .filter(|e| !late.contains(&e.description));
    open_those(ctx, table, placed.map(|e| e.fd).collect(), script, true);
}

fn owner(ctx: &RestoreContext<'_>, table: &FdTable) -> u32 {
    let mut tasks = ctx.image.tasks.iter();
    tasks.find(|t| t.fd_table == table.id).map_or(0, |t| t.pid)
}

fn open_those(
    ctx: &RestoreContext<'_>,
    table: &FdTable,
    mut taken: BTreeSet<u32>,
    script: &mut Script,
    late: bool,
) {
    let pid = owner(ctx, table);
    let mine = ctx.image.files.iter().filter(|file| is_own(file));
    for file in mine.filter(|file| needs_threads(file, pid) == late) {
        if first_number(table, file.id).is_none() {
            continue;
        }
        let number = (0..).find(|n| !taken.contains(n)).unwrap_or(u32::MAX);
        open(ctx, file, script);
        if file.position != 0 {
            let args = values([number.into(), file.position, 0]);
            script.call(
                format!("go on in open file {}", file.id),
                libc::SYS_lseek as u32,
                args,
            );
        }
        place(table, file.id, number, script);
        let entries = table.entries.iter().filter(|e| e.description == file.id);
        taken.extend(entries.map(|e| e.fd));
    }
}

fn open(ctx: &RestoreContext<'_>, file: &OpenFile, script: &mut Script) {
    match &file.kind {
        FileKind::PidFd(state) => {
            // PIDFD_NONBLOCK and PIDFD_THREAD are O_NONBLOCK and O_EXCL.
            let flags = file.flags & (libc::O_NONBLOCK | libc::O_EXCL) as u32;
            let args = values([ctx.id_now(state.pid).into(), flags.into()]);
            script.call("open a pidfd", libc::SYS_pidfd_open as u32, args);
        }
        FileKind::Proc(state) => {
            let rest = process_of(&state.path.0).map_or(&b""[..], |(_, rest)| rest);
            let path = [b"/proc/self", rest, b"/."].concat();
            // The trailing dot keeps /proc/self itself from being opened as
            // the link it is; a file takes none.
            let path = if state.directory {
                &path[..]
            } else {
                &path[..path.len() - 2]
            };
            let name = script.c_string(path);
            let flags = file.flags & !(libc::O_ASYNC as u32);
            let cwd = Arg::Value(libc::AT_FDCWD as i64 as u64);
            let what = format!("open {}", state.path);
            let args = [cwd, name.into(), Arg::Value(flags.into()), Arg::Value(0)];
            script.call(what, libc::SYS_openat as u32, args);
        }
        _ => {}
    }
}

/// The description has just got `number`, which may be one of its own.
fn place(table: &FdTable, id: DescriptionId, number: u32, script: &mut Script) {
    let mut stays = false;
    for entry in table.entries.iter().filter(|e| e.description == id) {
        if entry.fd != number {
            duplicate(script, number.into(), entry);
            continue;
        }
        stays = true;
        let flags = if entry.cloexec { libc::FD_CLOEXEC } else { 0 };
        let args = values([number.into(), libc::F_SETFD as u64, flags as u64]);
        script.call("set close-on-exec", libc::SYS_fcntl as u32, args);
    }
    if !stays {
        let args = values([number.into()]);
        script.call("close a number", libc::SYS_close as u32, args);
    }
}
