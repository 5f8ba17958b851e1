//! Dump: `freeze → collect → inspect from inside → copy pages → commit →
//! release`.
//!
//! Ordering requirements:
//! - the directory is made ready before the freeze: what is wrong with it costs
//!   the target nothing;
//! - the freeze, and everything up to the release, happens on a thread of its
//!   own that ends with the dump: ptrace belongs to the thread that attached;
//! - everything is collected from outside before anything runs inside, so that
//!   nothing of ours is among what is collected;
//! - all blockers are known before the first page is copied;
//! - the target is released only when the image is complete on disk and
//!   verified, and ended only after that; one that is to go on is released as
//!   soon as nothing more is to be had from it.

mod capture;
mod cgroup;
mod cgroup_freezer;
mod cgroup_tree;
mod connection;
mod copy;
mod copy_read;
mod copying;
mod cow;
mod descriptor;
pub(crate) mod descriptors;
mod device;
mod directory;
mod epoll;
mod eventfd;
pub(crate) mod file_ref;
mod flight;
mod fs_state;
pub(crate) mod ghost;
mod inet;
mod inet_queue;
mod inotify;
mod lock;
pub(crate) mod members;
mod memfd;
pub(crate) mod memory;
mod mm;
mod network;
mod numa;
mod outside;
mod pages;
mod parent_death;
mod path_only;
mod pidfd;
mod pipe;
mod pipe_queue;
mod proc_file;
mod regular;
pub(crate) mod shmem;
mod signalfd;
mod socket;
mod socket_state;
pub(crate) mod state;
mod sysv_shm;
mod tcp;
mod tcp_outside;
mod timerfd;
mod tty;
mod vma;

mod creds;
mod kin;
mod limits;
mod live;
mod namespaces;
mod prctl;
mod refused;
mod sched;
mod seccomp;
mod signals;
mod timers;
mod unix;
mod unix_name;
mod unix_option;
mod unix_queue;
mod xstate;
mod zombie;

mod check;
mod inside;
mod leftovers;
mod machine;
mod oom;
mod stopwatch;

use std::os::fd::OwnedFd;
use std::time::Instant;

use icecore_images::ImageWriter;
use icecore_images::envelope::ImageId;
use icecore_images::files::{FdTable, FsState, OpenFile};
use icecore_images::ids::DescriptionId;
use icecore_images::mm::MmState;
use icecore_images::pages::PageFile;
use icecore_images::pipe::PipeState;
use icecore_images::regular::GhostFile;
use icecore_images::seccomp::SeccompFilter;
use icecore_images::shmem::ShmemState;
use icecore_images::signals::SigHandState;
use icecore_images::task::TaskState;
use icecore_images::timers::ClockState;

use crate::blocker::{Blocker, Place};
use crate::error::DumpError;
use crate::kernel::open_files::ManyFiles;
use crate::observer::{Moment, Stage};
use crate::options::{After, DumpOptions};
use crate::stats::{DumpReport, DumpStats};
use crate::tracer::keeper::Keeper;
use crate::tracer::{Frozen, FrozenTask, Guardian};
use cgroup_freezer::Standstill;
use kin::Sharing;
use members::Members;
use network::Network;
use stopwatch::Stopwatch;

pub(crate) use check::blockers;

/// Puts the task, and everything below it, to sleep.
pub(crate) fn run(options: &DumpOptions) -> Result<DumpReport, DumpError> {
    on_thread_of_its_own(|| {
        let start = Instant::now();
        let first_to_go = oom::FirstToGo::now();
        let _many_files = ManyFiles::allow();
        live::check_options(options)?;
        tell(options, Stage::PreDump)?;
        let (mut writer, guardian) = leftovers::open_image(options)?;
        let mut ctx = DumpContext::new(options);
        let room = copying::room(&ctx);
        // Dropped before what is frozen: cgroups stand still again before their
        // tasks are let go.
        let (mut frozen, standstill) = freeze(options)?;
        ctx.tables.cgroups.thawed = standstill.found();
        ctx.frozen_since = Some(frozen.since);
        gather(&mut ctx, &mut frozen)?;
        let keeper = keep(&mut ctx, writer.id(), &first_to_go)?;
        let machine = machine::describe(options.pid, &frozen)?;
        let rest = copy_frozen(&mut ctx, &mut frozen, room, &mut writer)?;
        let mut held = Some((frozen, standstill, keeper));
        if rest.is_some()
            && let Some((frozen, standstill, keeper)) = held.take()
        {
            release(&mut ctx, frozen, standstill, keeper)?;
        }
        copying::finish(&mut ctx, rest, &mut writer)?;
        go_on(options)?;
        let committed = writer.commit(&machine::checkpoint(&mut ctx, machine))?;
        guardian
            .dismiss()
            .map_err(|source| DumpError::Guardian { source })?;
        tell(options, Stage::PostDump)
            .and_then(|()| go_on(options))
            .inspect_err(|_| discard(options))?;
        if let Some((frozen, standstill, keeper)) = held {
            release(&mut ctx, frozen, standstill, keeper)?;
        }
        ctx.stats.write_us += micros(committed.write);
        ctx.stats.sync_us = micros(committed.sync);
        ctx.stats.bytes_written = committed.bytes;
        ctx.stats.total_us = micros(start.elapsed());
        Ok(DumpReport {
            stats: ctx.stats,
            notes: ctx.notes,
        })
    })
}

/// Runs the operation on a thread that ends with it: whatever happens inside,
/// the kernel lets go of every tracee with that thread.
fn on_thread_of_its_own<T: Send>(
    operation: impl FnOnce() -> Result<T, DumpError> + Send,
) -> Result<T, DumpError> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("icecore-dump".to_owned());
        let thread = builder
            .spawn_scoped(scope, operation)
            .map_err(|source| DumpError::Thread { source })?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Gives the connections that are to be kept to a keeper. Nothing may stand in
/// the way of the dump.
fn keep(
    ctx: &mut DumpContext<'_>,
    image: ImageId,
    first_to_go: &oom::FirstToGo,
) -> Result<Option<Keeper>, DumpError> {
    if !ctx.blockers.is_empty() {
        let pid = ctx.options.pid;
        let blockers = std::mem::take(&mut ctx.blockers);
        return Err(DumpError::Blocked { pid, blockers });
    }
    tcp::read_all(ctx)?;
    connection::start_keeper(ctx, image, first_to_go)
}

/// Copies what must be copied while the target stands still.
fn copy_frozen(
    ctx: &mut DumpContext<'_>,
    frozen: &mut Frozen,
    room: Option<capture::Room>,
    writer: &mut ImageWriter,
) -> Result<copying::Rest, DumpError> {
    go_on(ctx.options)?;
    if ctx.options.live {
        // Not later: copies of tasks are children of theirs.
        nobody_new(ctx.options, frozen)?;
    }
    let rest = copying::begin(ctx, frozen, room, writer)?;
    if !ctx.options.live {
        nobody_new(ctx.options, frozen)?;
    }
    Ok(rest)
}

/// Looks for what binds the tasks to processes outside while `operation` goes on
/// with them.
fn with_bonds(
    frozen: &Frozen,
    operation: impl FnOnce() -> Result<(), DumpError>,
) -> Result<std::io::Result<Vec<kin::Bond>>, DumpError> {
    let members = Members::of(frozen);
    let ours = kin::Sorted::of(&frozen.tasks);
    let look = || kin::find_bonds(&members, ours.as_ref().map_err(|e| e.kind())?);
    std::thread::scope(|scope| {
        let other = std::thread::Builder::new().spawn_scoped(scope, look);
        operation()?;
        Ok(match other.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(bonds)) => bonds,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            // There is no thread to be had.
            Err(_) => look(),
        })
    })
}

/// Describes what can be seen of the tasks from outside.
fn collect(ctx: &mut DumpContext<'_>, frozen: &Frozen, sharing: &Sharing) -> Result<(), DumpError> {
    for (task, mm) in frozen.tasks.iter().zip(&sharing.mms) {
        if mm.first {
            memory::collect(ctx, task)?;
        }
    }
    descriptors::collect(ctx, &frozen.tasks, sharing)?;
    for (index, task) in frozen.tasks.iter().enumerate() {
        let state = state::collect(ctx, task, state::Shared::of(sharing, index))?;
        ctx.tables.tasks.push(state);
    }
    sysv_shm::check(ctx)?;
    zombie::collect(ctx, &frozen.zombies)
}

/// Describes everything and notes every blocker.
fn gather(ctx: &mut DumpContext<'_>, frozen: &mut Frozen) -> Result<(), DumpError> {
    let watch = Stopwatch::start();
    ctx.members = Members::of(frozen);
    let relatives = |source| DumpError::Read {
        pid: ctx.options.pid,
        what: "what its tasks share".to_owned(),
        source,
    };
    let sharing = Sharing::of(&frozen.tasks).map_err(relatives)?;
    kin::note_session(ctx, frozen).map_err(relatives)?;
    let bonds = with_bonds(frozen, || collect(ctx, frozen, &sharing))?;
    kin::note_bonds(ctx, bonds.map_err(relatives)?);
    namespaces::check_clocks(ctx, &frozen.tasks).map_err(relatives)?;
    cgroup::collect(ctx)?;
    let read = std::mem::take(&mut ctx.unix_queues).finish();
    read.map_err(|source| DumpError::Guardian { source })?;
    ctx.stats.collect_us = watch.micros();
    go_on(ctx.options)?;
    let watch = Stopwatch::start();
    for (index, task) in frozen.tasks.iter_mut().enumerate() {
        if inside::is_possible(ctx, task)? {
            inspect(ctx, task, index, sharing.mms[index].first)?;
            // Its page may be one of the program's, which is not to hold ours.
            task.put_stub_away();
        }
    }
    parent_death::check(ctx, frozen).map_err(relatives)?;
    if ctx.blockers.is_empty() {
        let pid = ctx.options.pid;
        let waited = frozen.wait_for_remains();
        waited.map_err(|source| DumpError::Inject { pid, source })?;
    }
    ctx.stats.parasite_us = watch.micros();
    Ok(())
}

/// Adds what only the task itself can tell.
fn inspect(
    ctx: &mut DumpContext<'_>,
    task: &mut FrozenTask,
    index: usize,
    memory_too: bool,
) -> Result<(), DumpError> {
    let mut state = ctx.tables.tasks[index].clone();
    if memory_too {
        memory::inspect(ctx, task, state.mm)?;
    }
    state::inspect(ctx, task, &mut state)?;
    ctx.tables.tasks[index] = state;
    Ok(())
}

/// Whoever slipped through the freeze has gone on all the time: what has been
/// written is not of one moment.
fn nobody_new(options: &DumpOptions, frozen: &Frozen) -> Result<(), DumpError> {
    let pid = options.pid;
    let newcomer = frozen
        .newcomer()
        .map_err(|source| DumpError::Freeze { pid, source })?;
    match newcomer {
        Some((child, parent)) => Err(DumpError::Newcomer { child, parent }),
        None => Ok(()),
    }
}

fn freeze(options: &DumpOptions) -> Result<(Frozen, Standstill), DumpError> {
    let pid = options.pid;
    let mut standstill = Standstill::of(options)?;
    let frozen = match standstill.is_needed() {
        true => Frozen::freeze_thawing(pid, options.timeout, &mut || standstill.thaw()),
        false => Frozen::freeze(pid, options.timeout),
    };
    let frozen = frozen.map_err(|source| DumpError::Freeze { pid, source })?;
    Ok((frozen, standstill))
}

/// Lets the target go, as it was asked for.
fn release(
    ctx: &mut DumpContext<'_>,
    frozen: Frozen,
    standstill: Standstill,
    keeper: Option<Keeper>,
) -> Result<(), DumpError> {
    let pid = ctx.options.pid;
    let unkept = |source| DumpError::Keeper {
        what: "tell",
        source,
    };
    if let Some(keeper) = &keeper {
        let told = keeper.target_ends();
        told.map_err(unkept).inspect_err(|_| discard(ctx.options))?;
    }
    let since = frozen.since;
    ctx.stats.freezing_us = micros(frozen.freezing);
    if ctx.options.after != After::Kill {
        standstill.end();
    }
    if ctx.options.after == After::Kill
        && let Err(e) = ctx.change_network(Network::repair_again)
    {
        discard(ctx.options);
        // All of it is undone before the target goes on.
        ctx.network = Network::default();
        return Err(e);
    }
    let released = match ctx.options.after {
        After::Kill => frozen.kill(),
        After::Run => frozen.resume(),
        After::Stop => frozen.leave_stopped(),
    };
    ctx.stats.frozen_us = micros(since.elapsed());
    released.map_err(|source| DumpError::Release { pid, source })?;
    if ctx.options.after == After::Kill {
        ctx.change_network(Network::keep)?;
    }
    keeper.map_or(Ok(()), |keeper| keeper.target_is_gone().map_err(unkept))
}

/// Tells whoever watches that a stage has been reached.
fn tell(options: &DumpOptions, stage: Stage) -> Result<(), DumpError> {
    let moment = Moment {
        stage,
        images_dir: options.images_dir.clone(),
        init_pid: Some(options.pid),
    };
    let told = options.observer.stage(&moment);
    told.map_err(|source| DumpError::Stage {
        stage: stage.name(),
        source,
    })
}

/// Unmakes an image that must not be one after all: without its manifest it is
/// what a failed dump leaves, which the next one removes.
fn discard(options: &DumpOptions) {
    let _ = std::fs::remove_file(options.images_dir.join("manifest"));
}

/// An error where the caller wants to stop.
fn go_on(options: &DumpOptions) -> Result<(), DumpError> {
    match options.cancel.is_cancelled() {
        true => Err(DumpError::Cancelled),
        false => Ok(()),
    }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What the stages of a dump share: what was asked for and what has been found
/// so far. Ids in the tables are their indices.
#[derive(Debug)]
pub(crate) struct DumpContext<'a> {
    pub(crate) options: &'a DumpOptions,
    /// Everything that cannot be carried over; reported together.
    pub(crate) blockers: Vec<Blocker>,
    /// Deviations that do not stop a dump but are said aloud.
    pub(crate) notes: Vec<String>,
    /// Clocks at the moment the timers were read.
    pub(crate) clocks: ClockState,
    pub(crate) tables: Tables,
    /// Who belongs to the dump.
    pub(crate) members: Members,
    pub(crate) stats: DumpStats,
    /// Since when the target has stood still.
    pub(crate) frozen_since: Option<Instant>,
    /// Duplicates of connections to the outside, for a keeper.
    pub(crate) keep: Vec<(DescriptionId, OwnedFd)>,
    /// There are connections to be kept, but the target goes on and keeps them
    /// itself.
    pub(crate) goes_on_with_its_own: bool,
    /// TCP connections that are still to be read.
    connections: Vec<tcp::Unread>,
    /// What is changed of the network.
    network: Network,
    /// Undoes what is changed of the living target's sockets.
    guardian: Option<Guardian>,
    /// Reads queues of sockets.
    unix_queues: unix_queue::Reader,
}

/// The objects that tasks share, as they are discovered.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) mms: Vec<MmState>,
    pub(crate) fd_tables: Vec<FdTable>,
    pub(crate) fs: Vec<FsState>,
    pub(crate) sig_hands: Vec<SigHandState>,
    pub(crate) files: Vec<OpenFile>,
    pub(crate) pipes: Vec<PipeState>,
    pub(crate) ghosts: Vec<GhostFile>,
    pub(crate) shmems: Vec<ShmemState>,
    pub(crate) seccomp_filters: Vec<SeccompFilter>,
    pub(crate) page_files: Vec<PageFile>,
    pub(crate) tasks: Vec<TaskState>,
    /// How files were found, for those that come across them again.
    pub(crate) file_refs: file_ref::FileRefs,
    /// The same for shared memory objects.
    pub(crate) shmem_refs: shmem::Shmems,
    /// The thread through which each address space is read, by its id.
    pub(crate) mm_tids: Vec<u32>,
    /// Cgroups, and where they were found.
    pub(crate) cgroups: cgroup::Cgroups,
}

impl<'a> DumpContext<'a> {
    /// Nothing found yet.
    pub(crate) fn new(options: &'a DumpOptions) -> Self {
        Self {
            options,
            blockers: Vec::new(),
            notes: Vec::new(),
            clocks: ClockState::default(),
            tables: Tables::default(),
            members: Members::default(),
            stats: DumpStats::default(),
            frozen_since: None,
            keep: Vec::new(),
            goes_on_with_its_own: false,
            connections: Vec::new(),
            network: Network::default(),
            guardian: None,
            unix_queues: unix_queue::Reader::default(),
        }
    }
}

impl DumpContext<'_> {
    /// The guardian of what is changed of the living target: told before,
    /// and made to forget what has been put back. What it has not been made to
    /// forget it undoes when the dump is over.
    pub(crate) fn guardian(&mut self) -> std::io::Result<&mut Guardian> {
        let guardian = match self.guardian.take() {
            Some(guardian) => guardian,
            None => Guardian::spawn()?,
        };
        Ok(self.guardian.insert(guardian))
    }

    /// Changes something of the network under the guardian's watch.
    fn change_network(
        &mut self,
        change: fn(&mut Network, &mut Guardian) -> std::io::Result<()>,
    ) -> Result<(), DumpError> {
        let mut network = std::mem::take(&mut self.network);
        let guardian = self.guardian();
        let changed = guardian.and_then(|guardian| change(&mut network, guardian));
        self.network = network;
        changed.map_err(|source| DumpError::Guardian { source })
    }

    /// Notes something that cannot be carried over.
    pub(crate) fn block(&mut self, place: Place, problem: String, help: Option<&str>) {
        self.blockers.push(Blocker {
            place,
            problem,
            help: help.map(str::to_owned),
        });
    }
}
