//! Descriptors, working directory and root. This module is the list; each kind
//! of descriptor has its own.
//!
//! Every open file description is opened once, here, under a number that the
//! task does not use, and reaches the task by inheritance; scripts then place
//! it at its numbers. Ordering requirements:
//! - pipes are filled before their ends are opened with their final flags;
//! - sockets get their queues, in which there may be any of the others, when
//!   all are open (`unix`);
//! - inotify instances are opened last, or they would see the others opened,
//!   and emptied (`settle`) right before the task runs;
//! - what can only be opened once the tasks exist (pidfds, their `/proc`) is
//!   received when everything else is placed and all else is closed: then it
//!   is known which number it gets;
//! - epoll registrations of numbers that mean something else by now come
//!   before the task's descriptors are placed;
//! - locks are taken last: closing a descriptor gives up POSIX locks;
//! - limits are set, and seccomp filters installed, after descriptors are
//!   placed; owners are set after credentials, which they remember.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, OwnedFd};

use icecore_images::files::{FdEntry, FdTable, FileKind, OpenFile};
use icecore_images::ids::DescriptionId;
use icecore_images::task::TaskState;
use rustix::fs::OFlags;

use super::doers::Doers;
use super::forest::is_dead;
use super::ghost::Ghosts;
use super::late::Courier;
use super::limit::OpenFilesLimit;
use super::numbers::Numbers;
use super::shmem::Shmems;
use super::{RestoreContext, file_ref};
use super::{
    connection, descriptor_plan, device, epoll, eventfd, fs_state, inet, inotify, late, lock,
    owner, pipe, regular, signalfd, tcp, timerfd, tty, unix, unix_name,
};
use crate::error::RestoreError;
use crate::tracer::{Arg, Script};

/// Open file descriptions opened in the root of the restore.
#[derive(Debug)]
pub(crate) struct Opened {
    /// One descriptor of ours for each description, at its id's index; none
    /// for those that can be opened only once the tasks exist.
    fds: Vec<Option<OwnedFd>>,
    fs: Vec<fs_state::Directories>,
    doers: Doers,
    pub(super) courier: Courier,
    /// Files of sockets.
    made: RefCell<unix_name::Made>,
    _limit: OpenFilesLimit,
}

impl Opened {
    /// Whether `table` does what is done once for a description.
    pub(super) fn sets_up(&self, table: &FdTable, id: DescriptionId) -> bool {
        self.doers.sets_up(table, id)
    }

    /// Our number of a description.
    pub(super) fn number(&self, id: DescriptionId) -> Option<u64> {
        self.fd(id).map(|fd| fd.as_raw_fd() as u64)
    }

    /// Ours for a description.
    pub(super) fn fd(&self, id: DescriptionId) -> Option<&OwnedFd> {
        self.fds.get(id.0 as usize)?.as_ref()
    }

    /// Adds one that could only be opened now.
    pub(super) fn add(&mut self, id: DescriptionId, fd: OwnedFd) {
        if let Some(slot) = self.fds.get_mut(id.0 as usize) {
            *slot = Some(fd);
        }
    }

    /// What must be as it was when the task runs again: restoring has touched
    /// files that inotify instances of the task watch.
    pub(crate) fn settle(&self, ctx: &RestoreContext<'_>) -> Result<(), RestoreError> {
        for (file, fd) in ctx.image.files.iter().zip(&self.fds) {
            if let (FileKind::Inotify(_), Some(fd)) = (&file.kind, fd) {
                inotify::settle(fd);
            }
        }
        tcp::go_on(ctx, self)?;
        self.made.borrow_mut().keep();
        Ok(())
    }
}

/// Notes every obstacle: files missing or changed, all at once.
pub(crate) fn plan(ctx: &mut RestoreContext<'_>) {
    descriptor_plan::plan(ctx);
}

/// Opens every description once.
pub(crate) fn open_all(
    ctx: &RestoreContext<'_>,
    shmems: &Shmems,
    ghosts: &Ghosts,
) -> Result<Opened, RestoreError> {
    let mut numbers = Numbers::of(ctx.image);
    let limit = OpenFilesLimit::raise()?;
    let mut pipes = pipe::Pipes::create(ctx, ghosts)?;
    let mut sockets = unix::Sockets::create(ctx)?;
    let mut taken = ctx.connections.take()?;
    let mut inet = inet::Sockets::create(ctx)?;
    let mut fds: Vec<Option<OwnedFd>> = ctx.image.files.iter().map(|_| None).collect();
    let is_inotify = |file: &OpenFile| matches!(file.kind, FileKind::Inotify(_));
    let (last, first): (Vec<_>, Vec<_>) = ctx.image.files.iter().partition(|f| is_inotify(f));
    for file in first.into_iter().chain(last) {
        let opened = open(
            file,
            ghosts,
            shmems,
            &mut pipes,
            (&mut sockets, &mut inet),
            &mut taken,
        )
        .and_then(|fd| fd.map(|fd| numbers.lift(fd)).transpose())
        .map_err(|source| rebuild(file, source))?;
        if let Some(slot) = fds.get_mut(file.id.0 as usize) {
            *slot = opened;
        }
    }
    let made = sockets.finish(ctx, &fds)?.into();
    let fs = fs_state::open_all(ctx, ghosts, &mut numbers)?;
    let courier = Courier::new(&mut numbers).map_err(|source| RestoreError::Rebuild {
        what: "a way to tasks that exist".to_owned(),
        source,
    })?;
    Ok(Opened {
        fds,
        fs,
        doers: Doers::of(ctx.image),
        courier,
        made,
        _limit: limit,
    })
}

pub(super) fn rebuild(file: &OpenFile, source: std::io::Error) -> RestoreError {
    RestoreError::Rebuild {
        what: format!("open file {} ({})", file.id, descriptor_plan::name(file)),
        source,
    }
}

/// `None`: that can wait, and has to.
fn open(
    file: &OpenFile,
    ghosts: &Ghosts,
    shmems: &Shmems,
    pipes: &mut pipe::Pipes,
    (sockets, inet): (&mut unix::Sockets, &mut inet::Sockets),
    taken: &mut connection::Taken,
) -> std::io::Result<Option<OwnedFd>> {
    let flags = open_flags(file.flags);
    let fd = match &file.kind {
        FileKind::Regular(of) | FileKind::Directory(of) => {
            regular::open(ghosts, of, flags, file.position)?
        }
        FileKind::PathOnly(of) => file_ref::open(ghosts, of, flags)?,
        FileKind::Device(state) => device::open(state, ghosts, flags)?,
        FileKind::Proc(_) | FileKind::PidFd(_) if late::is_late(file) => return Ok(None),
        FileKind::Proc(state) => late::open_shared(state, flags, file.position)?,
        FileKind::PidFd(_) => return Ok(None),
        FileKind::Pipe(end) => pipes.open(end.pipe, flags)?,
        FileKind::EventFd(state) => eventfd::open(state, flags)?,
        FileKind::Epoll(_) => epoll::open()?,
        FileKind::TimerFd(state) => timerfd::open(state, flags)?,
        FileKind::SignalFd(state) => signalfd::open(state, flags)?,
        FileKind::Inotify(state) => inotify::open(state, flags, ghosts)?,
        FileKind::MemFd(id) => regular::at(shmems.reopen(*id, flags)?, flags, file.position)?,
        FileKind::Unix(_) => sockets.open(file.id, flags)?,
        FileKind::Connection(_) => connection::open(file.id, flags, taken)?,
        FileKind::Inet(_) => inet.open(file.id, flags)?,
    };
    Ok(Some(fd))
}

/// O_* flags as open takes them. O_ASYNC is switched on in the task.
pub(super) fn open_flags(flags: u32) -> OFlags {
    OFlags::from_bits_retain(flags & !(libc::O_ASYNC as u32)) | OFlags::CLOEXEC
}

/// Places the task's descriptors at their numbers and closes all others but the
/// directories it is to enter; in the task, which inherited `opened`.
pub(crate) fn place(
    ctx: &RestoreContext<'_>,
    opened: &Opened,
    task: &TaskState,
    script: &mut Script,
) {
    let Some(table) = table(ctx, task) else {
        return;
    };
    epoll::register_stale(ctx, opened, table, script);
    for entry in &table.entries {
        if let Some(number) = opened.number(entry.description) {
            duplicate(script, number, entry);
        }
    }
    let mut kept = directories_of(ctx, opened, table);
    kept.extend(opened.courier.number(ctx, table));
    let placed = table
        .entries
        .iter()
        .filter(|e| opened.number(e.description).is_some());
    let open: BTreeSet<u32> = placed.map(|e| e.fd).chain(kept).collect();
    close_all_but(&open, script);
}

/// Our numbers of the directories that tasks with this table are to enter: the
/// first of those that share an fs struct does it.
fn directories_of(ctx: &RestoreContext<'_>, opened: &Opened, table: &FdTable) -> Vec<u32> {
    let tasks = || ctx.image.tasks.iter().filter(|task| !is_dead(task));
    let enters = |task: &&TaskState| {
        let first = tasks().find(|other| other.fs == task.fs);
        first.is_some_and(|first| first.pid == task.pid)
    };
    let ours = tasks().filter(|task| task.fd_table == table.id);
    let directories = ours
        .filter(enters)
        .filter_map(|task| fs_state::of_task(&opened.fs, task));
    directories
        .flat_map(fs_state::Directories::numbers)
        .collect()
}

/// Sets working directory, root and umask, in the first task that has them.
pub(crate) fn enter(
    ctx: &RestoreContext<'_>,
    opened: &Opened,
    task: &TaskState,
    script: &mut Script,
) {
    if let Some(directories) = fs_state::of_task(&opened.fs, task) {
        fs_state::enter(ctx, task, directories, script);
    }
}

/// dup3 to the number of `entry`.
pub(super) fn duplicate(script: &mut Script, number: u64, entry: &FdEntry) {
    let cloexec = if entry.cloexec { libc::O_CLOEXEC } else { 0 };
    script.call(
        format!("place descriptor {}", entry.fd),
        libc::SYS_dup3 as u32,
        [number, u64::from(entry.fd), cloexec as u64],
    );
}

fn close_all_but(open: &BTreeSet<u32>, script: &mut Script) {
    let mut close = |from: u32, to: u32| {
        let args = [u64::from(from), u64::from(to), 0];
        script.call(
            "close what is not the task's",
            libc::SYS_close_range as u32,
            args,
        );
    };
    let mut from = 0;
    for &fd in open {
        if fd > from {
            close(from, fd - 1);
        }
        from = fd.saturating_add(1).max(from);
    }
    close(from, u32::MAX);
}

/// What needs the task's own identity and its final descriptor numbers: epoll
/// registrations, owners, timers' expiry, locks. What several tables have is
/// seen to by one of them.
pub(crate) fn finish(
    ctx: &RestoreContext<'_>,
    opened: &Opened,
    task: &TaskState,
    script: &mut Script,
) {
    let Some(table) = table(ctx, task) else {
        return;
    };
    let first: BTreeMap<DescriptionId, u32> = {
        let entries = table.entries.iter().rev();
        entries.map(|e| (e.description, e.fd)).collect()
    };
    let files = || {
        let all = ctx.image.files.iter();
        all.filter_map(|file| Some((file, *first.get(&file.id)?)))
    };
    let own = || files().filter(|(file, _)| opened.doers.sets_up(table, file.id));
    for (file, fd) in own() {
        if let FileKind::Epoll(state) = &file.kind {
            epoll::register(opened, table, fd, state, script);
        }
    }
    tty::control(ctx, task, script);
    for (file, fd) in own() {
        if let FileKind::TimerFd(state) = &file.kind {
            timerfd::arm(ctx, fd, state, script);
        }
    }
    for (file, fd) in files().filter(|(file, _)| opened.doers.owns(table, file.id)) {
        owner::set(ctx, fd, file, script);
    }
    for (file, fd) in files() {
        let sets_up = opened.doers.sets_up(table, file.id);
        lock::take((fd, file), table.id, sets_up, script);
    }
}

/// The table of a task.
pub(super) fn table<'a>(ctx: &RestoreContext<'a>, task: &TaskState) -> Option<&'a FdTable> {
    ctx.image.fd_tables.iter().find(|t| t.id == task.fd_table)
}

/// Numbers as arguments of a call, beside addresses.
pub(super) fn values<const N: usize>(values: [u64; N]) -> [Arg; N] {
    values.map(Arg::Value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_between_is_closed() {
        let mut script = Script::new();
        close_all_but(&BTreeSet::from([0, 1, 5, u32::MAX - 1]), &mut script);
        let image = script.load(0);
        let word = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
        let ranges: Vec<_> = (0..script.call_count())
            .map(|i| (word(i * 72 + 8), word(i * 72 + 16)))
            .collect();
        let end = u64::from(u32::MAX);
        assert_eq!(ranges, [(2, 4), (6, end - 2), (end, end)]);
    }
}
