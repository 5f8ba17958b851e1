//! What exists only once the tasks do: pidfds of them and of their threads,
//! and their files below `/proc`.
//!
//! They are opened here, like everything else, and reach the tasks, which were
//! created before, by messages: each table that has any keeps the receiving end
//! of a pair of sockets until they have come.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use icecore_images::files::{FdTable, FileKind, OpenFile};
use icecore_images::ids::DescriptionId;
use icecore_images::pidfd::PidFdState;
use icecore_images::proc_file::ProcFileState;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::RestoreContext;
use super::descriptors::{Opened, duplicate, values};
use super::forest::Forest;
use super::numbers::Numbers;
use super::{file_ref, regular};
use crate::error::RestoreError;
use crate::tracer::{Arg, Script};

/// How many descriptions are sent at once: a socket holds some hundred.
const AT_ONCE: usize = 64;
const FD_MESSAGE_LEN: usize = 24;

/// Whether it is about a task, and not about the machine.
pub(super) fn is_late(file: &OpenFile) -> bool {
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
    let fd = rustix::fs::openat(CWD, file_ref::as_path(&state.path), flags, Mode::empty())?;
    regular::at(fd, flags, position)
}

/// The way to tasks that exist already.
#[derive(Debug)]
pub(super) struct Courier {
    send: OwnedFd,
    /// Under a number that no task uses.
    receive: OwnedFd,
}

impl Courier {
    /// To be made before any task is.
    pub(super) fn new(numbers: &mut Numbers) -> std::io::Result<Self> {
        let (send, receive) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let (send, receive) = (numbers.lift(send)?, numbers.lift(receive)?);
        Ok(Self { send, receive })
    }

    /// The number of the receiving end in a table that is to receive something.
    pub(super) fn number(&self, ctx: &RestoreContext<'_>, table: &FdTable) -> Option<u32> {
        let receives = !of_table(ctx, table).is_empty();
        receives.then_some(self.receive.as_raw_fd() as u32)
    }

    fn send(&self, fd: &OwnedFd) -> rustix::io::Result<()> {
        let fds = [fd.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let byte = [IoSlice::new(&[0])];
        sendmsg(&self.send, &byte, &mut control, SendFlags::DONTWAIT).map(drop)
    }
}

/// The late descriptions of a table.
fn of_table<'a>(ctx: &RestoreContext<'a>, table: &FdTable) -> Vec<&'a OpenFile> {
    let held: BTreeSet<DescriptionId> = table.entries.iter().map(|e| e.description).collect();
    let files = ctx.image.files.iter();
    files
        .filter(|file| is_late(file) && held.contains(&file.id))
        .collect()
}

/// Opens all of them, once all tasks and their threads exist.
pub(super) fn open_all(
    ctx: &RestoreContext<'_>,
    forest: &Forest<'_>,
    opened: &mut Opened,
) -> Result<(), RestoreError> {
    for file in ctx.image.files.iter().filter(|file| is_late(file)) {
        let fd = match &file.kind {
            FileKind::PidFd(state) => open_pidfd(state, file, forest),
            FileKind::Proc(state) => open_proc(ctx, state, file, forest),
            _ => continue,
        };
        let fd = fd.map_err(|source| super::descriptors::rebuild(file, source))?;
        opened.add(file.id, fd);
    }
    Ok(())
}

fn open_pidfd(
    state: &PidFdState,
    file: &OpenFile,
    forest: &Forest<'_>,
) -> std::io::Result<OwnedFd> {
    // PIDFD_NONBLOCK and PIDFD_THREAD are O_NONBLOCK and O_EXCL.
    let flags = file.flags & (libc::O_NONBLOCK | libc::O_EXCL) as u32;
    let live = forest
        .live_id(state.pid)
        .and_then(|id| Pid::from_raw(id as i32));
    let pid = live.ok_or(rustix::io::Errno::SRCH)?;
    Ok(pidfd_open(pid, PidfdFlags::from_bits_retain(flags))?)
}

fn open_proc(
    ctx: &RestoreContext<'_>,
    state: &ProcFileState,
    file: &OpenFile,
    forest: &Forest<'_>,
) -> std::io::Result<OwnedFd> {
    let (pid, rest) = process_of(&state.path.0).unwrap_or((0, b""));
    // The /proc of their namespace.
    let mut path = match forest.init() {
        Some(init) => PathBuf::from(format!("/proc/{}/root/proc", init.pid())),
        None => PathBuf::from("/proc"),
    };
    path.push(ctx.id_now(pid).to_string());
    for part in rest.split(|&b| b == b'/').filter(|part| !part.is_empty()) {
        path.push(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(part));
    }
    let flags = OFlags::from_bits_retain(file.flags & !(libc::O_ASYNC as u32)) | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(CWD, &path, flags, Mode::empty())?;
    regular::at(fd, flags, file.position)
}

/// A part of what a table receives: what is sent, and the script that receives
/// it and puts it at its numbers.
pub(super) struct Delivery<'a> {
    files: Vec<&'a OpenFile>,
    pub(super) script: Script,
}

impl Delivery<'_> {
    /// Sends it; the script is to be run right after.
    pub(super) fn send(&self, opened: &Opened) -> Result<(), RestoreError> {
        for file in &self.files {
            let fd = opened.fd(file.id).ok_or(rustix::io::Errno::BADF);
            let sent = fd.and_then(|fd| opened.courier.send(fd));
            sent.map_err(|e| super::descriptors::rebuild(file, e.into()))?;
        }
        Ok(())
    }
}

/// What a table receives, in parts. Everything else of it is in place and
/// nothing more is open, so that it is known which number is given next.
pub(super) fn deliveries<'a>(
    ctx: &RestoreContext<'a>,
    opened: &Opened,
    table: &FdTable,
) -> Vec<Delivery<'a>> {
    let files = of_table(ctx, table);
    let Some(courier) = opened.courier.number(ctx, table) else {
        return Vec::new();
    };
    let late: BTreeSet<DescriptionId> = files.iter().map(|file| file.id).collect();
    let placed = table.entries.iter();
    let placed = placed.filter(|entry| !late.contains(&entry.description));
    let mut taken: BTreeSet<u32> = placed.map(|entry| entry.fd).chain([courier]).collect();
    let part = |files: &[&'a OpenFile]| {
        let mut script = Script::new();
        for file in files {
            let number = (0..).find(|n| !taken.contains(n)).unwrap_or(u32::MAX);
            receive(courier, file, &mut script);
            place(table, file.id, number, &mut script);
            let entries = table.entries.iter().filter(|e| e.description == file.id);
            taken.extend(entries.map(|e| e.fd));
        }
        let files = files.to_vec();
        Delivery { files, script }
    };
    let mut parts: Vec<Delivery<'a>> = files.chunks(AT_ONCE).map(part).collect();
    if let Some(last) = parts.last_mut() {
        let args = values([courier.into()]);
        let nr = libc::SYS_close as u32;
        last.script.call("close the way to the task", nr, args);
    }
    parts
}

/// recvmsg(2) of one descriptor.
fn receive(courier: u32, file: &OpenFile, script: &mut Script) {
    let byte = script.buffer(8);
    let vector = script.bytes(&[[0; 8], 1_u64.to_le_bytes()].concat());
    script.pointer(vector, 0, byte);
    let control = script.buffer(FD_MESSAGE_LEN);
    // struct msghdr: name and its length, vector and its length, control and
    // its length, flags.
    let words = [0, 0, 0, 1, 0, FD_MESSAGE_LEN as u64, 0];
    let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    let header = script.bytes(&bytes);
    script.pointer(header, 16, vector);
    script.pointer(header, 32, control);
    let args = [
        Arg::Value(courier.into()),
        header.into(),
        Arg::from(libc::MSG_CMSG_CLOEXEC),
    ];
    let what = format!("receive open file {}", file.id);
    script.call(what, libc::SYS_recvmsg as u32, args);
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
