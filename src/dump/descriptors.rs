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
use super::kin::Sharing;
use super::{
    connection, device, directory, epoll, eventfd, flight, fs_state, inotify, lock, memfd, outside,
    path_only, pidfd, pipe, proc_file, signalfd, socket, timerfd, unix,
};
use crate::blocker::Place;
use crate::error::DumpError;
use crate::kernel::{fcntl, kcmp};
use crate::tracer::FrozenTask;

/// What is being found about the descriptors of all tasks.
#[derive(Debug)]
pub(super) struct Collection {
    /// By table, then by number.
    pub(super) descriptors: Vec<Descriptor>,
    /// The description of each descriptor, by index.
    pub(super) descriptions: Vec<DescriptionId>,
    /// The descriptors (by index, in order) of each description, by id.
    pub(super) holders: Vec<Vec<usize>>,
    /// Where each table's descriptors begin and end, by id.
    tables: Vec<std::ops::Range<usize>>,
    /// By device and inode.
    pub(super) pipes: BTreeMap<(u64, u64), pipe::Ends>,
    /// Looked for when there is a socket.
    pub(super) socket_holders: Option<unix::Holders>,
    /// Under way between sockets; after those of all tables.
    pub(super) flight: flight::Flight,
}

/// Describes the descriptors of all tasks, their working directories and roots,
/// and notes everything that cannot be carried. Runs nothing inside any task
/// and changes nothing.
pub(super) fn collect(
    ctx: &mut DumpContext<'_>,
    tasks: &[FrozenTask],
    sharing: &Sharing,
) -> Result<(), DumpError> {
    let (mut descriptors, mut tables) = (Vec::new(), Vec::new());
    for (index, task) in tasks.iter().enumerate() {
        check_shared_by_threads(ctx, task)?;
        let (fs, fd_table) = (sharing.fs[index], sharing.fd_tables[index]);
        let table = Table {
            id: FdTableId(fd_table.id),
            pid: task.pid,
            tid: task.a_tid(),
        };
        if fs.first {
            fs_state::collect(ctx, FsId(fs.id), &table)?;
        }
        if fd_table.first {
            let start = descriptors.len();
            descriptors.extend(table.descriptors()?);
            tables.push(start..descriptors.len());
        }
    }
    let flight = flight::gather(ctx, &mut descriptors)?;
    let (descriptions, holders) = number_descriptions(&descriptors)?;
    let mut collection = Collection {
        descriptors,
        descriptions,
        holders,
        tables,
        pipes: BTreeMap::new(),
        socket_holders: None,
        flight,
    };
    describe_all(ctx, &mut collection)?;
    ctx.tables.fd_tables = collection.fd_tables();
    Ok(())
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

/// Tells descriptors of one description from those of several, in whatever
/// table they are: for each its description, and for each description its
/// descriptors. Candidates are those of one file; among them kcmp's order sorts
/// duplicates together.
fn number_descriptions(
    descriptors: &[Descriptor],
) -> Result<(Vec<DescriptionId>, Vec<Vec<usize>>), DumpError> {
    let mut groups: HashMap<_, Vec<usize>> = HashMap::new();
    for (i, d) in descriptors.iter().enumerate() {
        groups.entry(d.key()).or_default().push(i);
    }
    let mut leader: Vec<usize> = (0..descriptors.len()).collect();
    for group in groups.values_mut() {
        let mut failure = None;
        let mut order = |a: usize, b: usize| {
            let (a, b) = (&descriptors[a], &descriptors[b]);
            kcmp::files(a.place_of_file(), b.place_of_file()).unwrap_or_else(|e| {
                failure = Some(read_error(a.pid, "kcmp of its descriptors", e));
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
            return Err(e);
        }
    }
    let mut holders: Vec<Vec<usize>> = Vec::new();
    let mut ids = vec![DescriptionId(0); descriptors.len()];
    for (i, &leader) in leader.iter().enumerate() {
        if leader == i {
            ids[i] = DescriptionId(holders.len() as u32);
            holders.push(Vec::new());
        } else {
            ids[i] = ids[leader];
        }
        holders[ids[i].0 as usize].push(i);
    }
    Ok((ids, holders))
}

/// Describes each description, in an order in which those that refer to
/// others come last.
fn describe_all(ctx: &mut DumpContext<'_>, all: &mut Collection) -> Result<(), DumpError> {
    for id in 0..all.holders.len() {
        let at = all.holders[id][0];
        let Some(locks) = lock::describe(ctx, all, id) else {
            continue;
        };
        let kind = describe(ctx, all, at)?;
        let d = &all.descriptors[at];
        let owner = match (&kind, d.is_path_only()) {
            (Some(_), false) => d.owner(d.duplicate()?)?,
            _ => None,
        };
        if let Some(owner) = &owner {
            check_owner(ctx, d, owner);
        }
        // A kind that is missing has been noted as a blocker: this dump ends
        // before anything is written.
        let Some(kind) = kind else { continue };
        let signals = owner.is_some() || d.flags() & libc::O_ASYNC as u32 != 0;
        if let Some(problem) = flight::problem(all, id, &kind, signals) {
            let help = "let the program receive it";
            d.refuse(ctx, problem, Some(help));
        }
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
    let outside = pipe::finish(ctx, &pipes)?;
    connection::pipes(ctx, all, &outside)
}

fn describe(
    ctx: &mut DumpContext<'_>,
    all: &mut Collection,
    at: usize,
) -> Result<Option<FileKind>, DumpError> {
    let d = &all.descriptors[at];
    if let Some(name) = d.shown_bytes().strip_prefix(b"anon_inode:") {
        return match name {
            b"[eventfd]" => eventfd::describe(ctx, d),
            b"[eventpoll]" => epoll::describe(ctx, all, d),
            b"[timerfd]" => timerfd::describe(ctx, d),
            b"[signalfd]" => signalfd::describe(ctx, d),
            b"[pidfd]" => pidfd::describe(ctx, d),
            b"inotify" => inotify::describe(ctx, all, d),
            _ => outside::refuse_anonymous(ctx, d),
        };
    }
    if d.is_path_only() {
        return path_only::describe(ctx, d);
    }
    match d.format() {
        libc::S_IFSOCK => socket::carry(ctx, all, at),
        libc::S_IFIFO => pipe::describe(ctx, all, at),
        libc::S_IFCHR => device::describe(ctx, all, at),
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

impl Collection {
    /// The descriptors of a table, by number.
    pub(super) fn of_table(&self, id: FdTableId) -> &[Descriptor] {
        let range = self.tables.get(id.0 as usize).cloned();
        &self.descriptors[range.unwrap_or_default()]
    }

    /// The index of a descriptor, by table and number.
    pub(super) fn find(&self, id: FdTableId, fd: u32) -> Option<usize> {
        let range = self.tables.get(id.0 as usize)?;
        let found = self.descriptors[range.clone()].binary_search_by_key(&fd, |d| d.fd);
        Some(range.start + found.ok()?)
    }

    fn fd_tables(&self) -> Vec<FdTable> {
        let table = |(id, range): (usize, &std::ops::Range<usize>)| FdTable {
            id: FdTableId(id as u32),
            entries: range.clone().map(|at| self.entry(at)).collect(),
        };
        self.tables.iter().enumerate().map(table).collect()
    }

    fn entry(&self, at: usize) -> FdEntry {
        let d = &self.descriptors[at];
        FdEntry {
            fd: d.fd,
            cloexec: d.cloexec(),
            description: self.descriptions[at],
        }
    }
}

/// Signals of a description go to a thread, process or group by number: it
/// must be one of the dump.
fn check_owner(
    ctx: &mut DumpContext<'_>,
    d: &Descriptor,
    owner: &icecore_images::files::FileOwner,
) {
    let id = owner.id as u32;
    let (what, inside) = match owner.kind {
        fcntl::F_OWNER_TID => ("thread", ctx.members.has_thread(id)),
        fcntl::F_OWNER_PGRP => ("process group", ctx.members.has_group(id)),
        _ => ("process", ctx.members.has_process(id)),
    };
    if id != 0 && !inside {
        let problem = format!("signals of {} go to {what} {id} outside the dump", named(d));
        d.refuse(ctx, problem, Some("F_SETOWN 0"));
    }
}

#[cfg(test)]
#[path = "descriptors_tests.rs"]
mod tests;
