//! Descriptors, working directory and root. This module is the list; each kind
//! of descriptor has its own.
//!
//! Nothing here runs inside the task, and nothing changes it: descriptors are
//! looked at through `/proc` and through duplicates (pidfd_getfd). Not carried
//! because nobody can read them: what posix_fadvise(2) was told about a
//! description, and F_NOTIFY (dnotify).

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use icecore_images::files::{FdEntry, FdTable, FileKind, OpenFile};
use icecore_images::ids::{DescriptionId, FdTableId, FsId};

use super::DumpContext;
use super::descriptor::{Descriptor, Table, read_error};
use super::{
    connection, device, directory, epoll, eventfd, fs_state, inotify, lock, memfd, outside,
    path_only, pidfd, pipe, proc_file, signalfd, timerfd, unix,
};
use crate::blocker::Place;
use crate::error::DumpError;
use crate::kernel::{fcntl, kcmp};
use crate::tracer::FrozenTask;

/// What is being found about one task's descriptors.
#[derive(Debug)]
pub(super) struct Collection<'a> {
    pub(super) task: &'a FrozenTask,
    pub(super) table: Table,
    pub(super) descriptors: Vec<Descriptor>,
    /// The description of each descriptor, by index.
    pub(super) descriptions: Vec<DescriptionId>,
    /// A descriptor (by index) of each description, the one of the lowest
    /// number, by id.
    pub(super) first: Vec<usize>,
    /// By device and inode.
    pub(super) pipes: BTreeMap<(u64, u64), pipe::Ends>,
    /// Looked for when there is a socket.
    pub(super) socket_holders: Option<unix::Holders>,
}

/// Describes the task's descriptors and notes every one that cannot be
/// carried. Runs nothing inside the task and changes nothing.
pub(crate) fn collect(
    ctx: &mut DumpContext<'_>,
    task: &FrozenTask,
) -> Result<(FdTableId, FsId), DumpError> {
    check_shared_by_threads(ctx, task)?;
    let tid = task.threads.first().map_or(task.pid, |t| t.tid);
    let table = Table::open(task.pid, tid)?;
    let fs = fs_state::collect(ctx, &table)?;
    let descriptors = table.descriptors()?;
    let (descriptions, first) = number_descriptions(tid, &descriptors)?;
    let mut collection = Collection {
        task,
        table,
        descriptors,
        descriptions,
        first,
        pipes: BTreeMap::new(),
        socket_holders: None,
    };
    describe_all(ctx, &mut collection)?;
    let id = FdTableId(ctx.tables.fd_tables.len() as u32);
    let entries = collection.entries();
    ctx.tables.fd_tables.push(FdTable { id, entries });
    Ok((id, fs))
}

/// Threads that unshared their table or fs struct would be put together again
/// silently.
fn check_shared_by_threads(ctx: &mut DumpContext<'_>, task: &FrozenTask) -> Result<(), DumpError> {
    let Some(leader) = task.threads.first() else {
        return Ok(());
    };
    for thread in &task.threads[1..] {
        let place = Place::Thread {
            pid: task.pid,
            tid: thread.tid,
        };
        let error = |e| read_error(task.pid, "kcmp of its threads", e);
        if !kcmp::same_descriptor_table(leader.tid, thread.tid).map_err(error)? {
            let problem = "the thread has a descriptor table of its own (unshare CLONE_FILES)";
            ctx.block(place.clone(), problem.to_owned(), None);
        }
        if !kcmp::same_fs(leader.tid, thread.tid).map_err(error)? {
            let problem = "the thread has a working directory of its own (unshare CLONE_FS)";
            ctx.block(place, problem.to_owned(), None);
        }
    }
    Ok(())
}

/// Tells descriptors of one description from those of several. Candidates are
/// those that look alike; among them kcmp's order sorts duplicates together.
fn number_descriptions(
    tid: u32,
    descriptors: &[Descriptor],
) -> Result<(Vec<DescriptionId>, Vec<usize>), DumpError> {
    use std::os::unix::fs::MetadataExt;
    let mut groups: HashMap<_, Vec<usize>> = HashMap::new();
    for (i, d) in descriptors.iter().enumerate() {
        let alike = (d.meta.dev(), d.meta.ino(), d.flags(), d.info.position);
        groups.entry(alike).or_default().push(i);
    }
    let mut leader: Vec<usize> = (0..descriptors.len()).collect();
    for group in groups.values_mut() {
        let mut failure = None;
        let mut order = |a: usize, b: usize| {
            let (a, b) = (descriptors[a].fd, descriptors[b].fd);
            kcmp::files((tid, a), (tid, b)).unwrap_or_else(|e| {
                failure = Some(e);
                Ordering::Equal
            })
        };
        group.sort_by(|&a, &b| order(a, b).then(a.cmp(&b)));
        for pair in group.windows(2) {
            if order(pair[0], pair[1]) == Ordering::Equal {
                leader[pair[1]] = leader[pair[0]];
            }
        }
        if let Some(e) = failure {
            return Err(read_error(tid, "kcmp of its descriptors", e));
        }
    }
    let first: Vec<usize> = (0..leader.len()).filter(|&i| leader[i] == i).collect();
    let ids = leader
        .iter()
        .map(|at| DescriptionId(first.partition_point(|f| f < at) as u32))
        .collect();
    Ok((ids, first))
}

/// Describes each description, in an order in which those that refer to
/// others come last.
fn describe_all(ctx: &mut DumpContext<'_>, all: &mut Collection<'_>) -> Result<(), DumpError> {
    for id in 0..all.first.len() {
        let at = all.first[id];
        let Some(locks) = lock::describe(ctx, &all.descriptors[at]) else {
            continue;
        };
        let kind = describe(ctx, all, at)?;
        let d = &all.descriptors[at];
        let owner = match (&kind, d.is_path_only()) {
            (Some(_), false) => d.owner(all.table.duplicate(d)?)?,
            _ => None,
        };
        if let Some(owner) = &owner {
            all.check_owner(ctx, d, owner);
        }
        // A kind that is missing has been noted as a blocker: this dump ends
        // before anything is written.
        let Some(kind) = kind else { continue };
        ctx.tables.files.push(OpenFile {
            id: DescriptionId(id as u32),
            flags: d.flags(),
            position: d.info.position,
            owner,
            locks,
            kind,
        });
    }
    let pipes = std::mem::take(&mut all.pipes);
    let outside = pipe::finish(ctx, all.task.pid, &pipes)?;
    connection::pipes(ctx, all, &outside)
}

fn describe(
    ctx: &mut DumpContext<'_>,
    all: &mut Collection<'_>,
    at: usize,
) -> Result<Option<FileKind>, DumpError> {
    let d = &all.descriptors[at];
    if let Some(name) = d.shown_bytes().strip_prefix(b"anon_inode:") {
        return match name {
            b"[eventfd]" => eventfd::describe(ctx, d),
            b"[eventpoll]" => epoll::describe(ctx, all, d),
            b"[timerfd]" => timerfd::describe(ctx, &all.table, d),
            b"[signalfd]" => signalfd::describe(ctx, d),
            b"[pidfd]" => pidfd::describe(ctx, all, d),
            b"inotify" => inotify::describe(ctx, all, d),
            _ => outside::refuse_anonymous(ctx, d),
        };
    }
    if d.is_path_only() {
        return path_only::describe(ctx, d);
    }
    match d.format() {
        libc::S_IFSOCK => unix::describe(ctx, all, at),
        libc::S_IFIFO => pipe::describe(ctx, all, at),
        libc::S_IFCHR => device::describe(ctx, d),
        _ if proc_file::is_one(d) => proc_file::describe(ctx, d),
        libc::S_IFDIR => directory::describe(ctx, d),
        libc::S_IFREG => memfd::describe(ctx, d),
        _ => outside::refuse_other(ctx, d),
    }
}

/// A descriptor in a sentence.
pub(super) fn named(d: &Descriptor) -> String {
    super::descriptor::shown(&d.shown)
}

impl Collection<'_> {
    fn entries(&self) -> Vec<FdEntry> {
        let pairs = self.descriptors.iter().zip(&self.descriptions);
        pairs
            .map(|(d, &description)| FdEntry {
                fd: d.fd,
                cloexec: d.cloexec(),
                description,
            })
            .collect()
    }

    /// Signals of a description go to a thread, process or group by number:
    /// it must be one of the dump.
    fn check_owner(
        &self,
        ctx: &mut DumpContext<'_>,
        d: &Descriptor,
        owner: &icecore_images::files::FileOwner,
    ) {
        let id = owner.id as u32;
        let inside = owner.id == 0
            || id == self.task.pid
            || self.task.threads.iter().any(|t| t.tid == id)
            || (owner.kind == fcntl::F_OWNER_PGRP && Some(id) == group_of(self.task.pid));
        if !inside {
            let what = match owner.kind {
                fcntl::F_OWNER_TID => "thread",
                fcntl::F_OWNER_PGRP => "process group",
                _ => "process",
            };
            let problem = format!("signals of {} go to {what} {id} outside the dump", named(d));
            d.refuse(ctx, problem, Some("F_SETOWN 0"));
        }
    }
}

fn group_of(pid: u32) -> Option<u32> {
    let pid = rustix::process::Pid::from_raw(pid as i32)?;
    let group = rustix::process::getpgid(Some(pid)).ok()?;
    Some(group.as_raw_nonzero().get() as u32)
}

#[cfg(test)]
#[path = "descriptors_tests.rs"]
mod tests;
