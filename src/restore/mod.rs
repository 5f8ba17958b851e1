//! Restore: `plan → spawn → rebuild → remap → resume`.
//!
//! No code of ours runs in a restored task but system calls: a child that does
//! nothing is taken over by ptrace and turned into the task, script by script.
//!
//! Ordering requirements:
//! - open file descriptions are opened here before any process is created; all
//!   inherit them;
//! - the whole tree is created before any task has its own state, as the plan
//!   says: sessions, groups and what is shared follow from who makes whom;
//! - those that had ended end first: their parents' state follows;
//! - memory is mapped while every process still has the descriptors it
//!   inherited, from which files are mapped; then the tasks' own are placed;
//! - memory is filled before protections are final;
//! - signal actions and limits come before threads, which share them; threads
//!   before the state that is each one's own;
//! - what has an identity in the task (epoll, owners) comes after the threads,
//!   timers and queued signals after everything;
//! - credentials are dropped in the threads' state: what needs privileges is
//!   done before, or by ptrace.

mod blob;
mod cgroup;
mod child;
mod clock;
mod connection;
mod cow;
mod cpu;
mod creds;
mod descriptor_plan;
pub(crate) mod descriptors;
mod device;
mod doers;
mod epoll;
mod eventfd;
pub(crate) mod file_ref;
mod forest;
mod fs_state;
pub(crate) mod ghost;
mod identity;
mod inet;
mod inet_plan;
mod inherit;
mod inotify;
mod late;
mod layout;
mod limit;
mod limits;
mod lock;
mod mapped;
pub(crate) mod memory;
mod memory_plan;
mod mm;
mod momentary;
mod namespace;
mod new_pid;
mod numbers;
mod outside;
mod owner;
mod pages;
mod pids;
mod pipe;
mod prctl;
mod raw_packet;
mod rebuild;
mod regular;
mod resume;
mod sched;
mod seccomp;
pub(crate) mod shmem;
mod signalfd;
mod signals;
mod sleep;
mod socket_state;
mod spawn;
pub(crate) mod state;
mod sysv_shm;
mod tcp;
mod tcp_outside;
mod threads;
mod timerfd;
mod timers;
mod tree;
mod tty;
mod unix;
mod unix_name;
mod unix_queue;
mod vdso;
mod vma;
mod xstate;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use icecore_images::{Checkpoint, Image, PageReader};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::CapabilitySet;

use crate::blocker::{Obstacle, Place};
use crate::error::RestoreError;
use crate::observer::{Moment, Stage};
use crate::options::{PidPolicy, RestoreOptions};
use crate::stats::{RestoreReport, RestoreStats};
use forest::Forest;
use rebuild::Materials;
use tree::{NoWay, TreePlan};

/// Wakes the tasks up. Returns once they run; a root task that is neither
/// detached nor a sibling is a child of this process, to be waited for.
pub(crate) fn run(options: &RestoreOptions) -> Result<RestoreReport, RestoreError> {
    // ptrace, the time namespace and the signal mask belong to a thread: one
    // of our own, so that the caller's stays as it is.
    let (report, reported) = mpsc::channel();
    let options = options.clone();
    let builder = std::thread::Builder::new().name("icecore-restore".to_owned());
    let started = builder.spawn(move || {
        let (result, outlived) = run_here(&options);
        // The caller may have gone; nothing depends on it.
        let _ = report.send(result);
        if let Some(pid) = outlived {
            wait_for_end(pid);
        }
    });
    let thread = started.map_err(|source| RestoreError::Namespace {
        what: "start a thread".to_owned(),
        source,
    })?;
    match reported.recv() {
        Ok(result) => result,
        Err(_) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => Err(RestoreError::Cancelled),
        },
    }
}

/// Parent-death signals are sent when the thread that created a process ends:
/// where the task has asked for one, the thread stays as long as the task.
fn wait_for_end(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed());
    let fd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let Some(fd) = fd else {
        return; // it has ended
    };
    let mut ends = [PollFd::new(&fd, PollFlags::IN)];
    while poll(&mut ends, None) == Err(Errno::INTR) {}
}

/// The result, and the process that the calling thread has to outlive.
fn run_here(options: &RestoreOptions) -> (Result<RestoreReport, RestoreError>, Option<u32>) {
    let mut outlived = None;
    let result = restore(options, &mut outlived);
    (result, outlived)
}

fn restore(
    options: &RestoreOptions,
    outlived: &mut Option<u32>,
) -> Result<RestoreReport, RestoreError> {
    let start = Instant::now();
    block_signals()?;
    let mut image = Image::open(&options.images_dir)?;
    let connections = connection::settle(options, &mut image);
    let mut ctx = RestoreContext::new(options, &image, connections);
    plan(&mut ctx)?;
    ctx.stats.plan_us = micros(start);
    let mut report = RestoreReport::default();
    if !options.dry_run {
        let woken = wake(&mut ctx)?;
        report.pid = Some(woken.pid);
        report.awaited = Some(woken.awaited);
        let child_of_ours = !options.detached && !options.sibling;
        if child_of_ours && has_parent_death_signal(ctx.image) {
            *outlived = Some(woken.pid);
        }
    }
    ctx.stats.total_us = micros(start);
    report.stats = ctx.stats;
    report.notes = ctx.notes;
    Ok(report)
}

fn has_parent_death_signal(image: &Checkpoint) -> bool {
    // Others' parents are in the image.
    let roots = image.tasks.iter().filter(|task| task.parent.is_none());
    let mut threads = roots.flat_map(|task| &task.threads);
    threads.any(|thread| thread.controls.parent_death_signal != 0)
}

/// A child starts with the signal mask of the thread that creates it.
fn block_signals() -> Result<(), RestoreError> {
    let blocked = nix::sys::signal::SigSet::all().thread_block();
    blocked.map_err(|e| RestoreError::Namespace {
        what: "block signals".to_owned(),
        source: e.into(),
    })
}

/// Finds everything that stands in the way, before anything is created.
fn plan(ctx: &mut RestoreContext<'_>) -> Result<(), RestoreError> {
    plan_tree(ctx);
    pids::plan(ctx);
    cgroup::plan(ctx);
    clock::plan(ctx);
    xstate::plan(ctx);
    state::plan(ctx);
    memory::plan(ctx);
    descriptors::plan(ctx);
    match ctx.obstacles.is_empty() {
        true => Ok(()),
        false => Err(RestoreError::Obstacles {
            obstacles: std::mem::take(&mut ctx.obstacles),
        }),
    }
}

/// Notes every task for which there is no way to be made.
fn plan_tree(ctx: &mut RestoreContext<'_>) {
    match tree::plan(ctx.image) {
        Ok(plan) => ctx.tree = Arc::new(plan),
        Err(impossible) => {
            for NoWay { task, reason } in impossible {
                let place = Place::Task {
                    pid: ctx.image.tasks[task].pid,
                };
                ctx.obstacle(place, reason, None);
            }
        }
    }
}

fn wake(ctx: &mut RestoreContext<'_>) -> Result<Woken, RestoreError> {
    let image = ctx.image;
    let Some(root) = image.tasks.first() else {
        return Err(missing(0, "a task"));
    };
    ctx.stage(Stage::PreRestore, None)?;
    ctx.made_cgroups = cgroup::make(ctx)?;
    let mut materials = Materials::gather(ctx)?;
    if ctx.options.clock_from_dump {
        clock::enter(&image.clocks)?;
    }
    ctx.clocks_since = Instant::now();

    let spawning = Instant::now();
    let init = match ctx.options.pids {
        PidPolicy::Namespace => Some(namespace::create(ctx, root, materials.mm(ctx, root)?)?),
        PidPolicy::Same | PidPolicy::New => None,
    };
    let plan = Arc::clone(&ctx.tree);
    let mut forest = Forest::spawn(ctx, &plan, &materials, init)?;
    forest.end_the_dead(ctx)?;
    ctx.stats.spawn_us = micros(spawning);

    rebuild::all(ctx, &mut forest, &mut materials)?;
    memory::seal_shared(ctx, &materials.shmems)?;
    cgroup::apply_limits(ctx)?;
    let live_root = forest.child(0)?.process.pid;
    ctx.stage(Stage::PostRestore, Some(live_root))?;
    resume::finish_all(ctx, &mut forest)?;
    ctx.stage(Stage::PreResume, Some(live_root))?;
    let awaited = forest.init().map_or(live_root, |init| init.pid());
    materials.opened.settle(ctx)?;
    ctx.connections.ready(live_root)?;
    materials.shmems.settle()?;
    cgroup::settle(ctx)?;
    resume::let_go(ctx, forest)?;
    ctx.connections.done();
    ctx.stage(Stage::PostResume, Some(live_root))?;
    Ok(Woken {
        pid: live_root,
        awaited,
    })
}

/// A tree that runs again, as this process sees it.
struct Woken {
    /// Its root.
    pid: u32,
    awaited: u32,
}

fn missing(pid: u32, what: &str) -> RestoreError {
    RestoreError::Step {
        pid,
        what: format!("find {what} in the image"),
        source: Errno::NOENT,
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// What the stages of a restore share.
#[derive(Debug)]
pub(crate) struct RestoreContext<'a> {
    pub(crate) options: &'a RestoreOptions,
    /// The verified image.
    pub(crate) image: &'a Checkpoint,
    /// Its page contents.
    pub(crate) pages: &'a PageReader,
    /// Everything that stands in the way; reported together.
    pub(crate) obstacles: Vec<Obstacle>,
    /// Deviations that do not stop a restore but are said aloud.
    pub(crate) notes: Vec<String>,
    pub(crate) stats: RestoreStats,
    capabilities: CapabilitySet,
    /// How the tree is made.
    tree: Arc<TreePlan>,
    /// The root task's pid where it is not the image's.
    new_pid: Option<u32>,
    /// Connections to the outside.
    connections: connection::Connections,
    /// Hierarchies of cgroups that are made use of.
    cgroups: Vec<cgroup::Spot<'a>>,
    /// What has been done to them; undone after every process is gone.
    made_cgroups: Option<cgroup::Made>,
    /// When the image's clocks began to go on.
    clocks_since: Instant,
}

impl<'a> RestoreContext<'a> {
    fn new(
        options: &'a RestoreOptions,
        image: &'a Image,
        connections: connection::Connections,
    ) -> Self {
        let capabilities = rustix::thread::capabilities(None);
        Self {
            options,
            image: &image.checkpoint,
            pages: &image.pages,
            obstacles: Vec::new(),
            notes: Vec::new(),
            stats: RestoreStats::default(),
            capabilities: capabilities.map_or(CapabilitySet::empty(), |sets| sets.effective),
            tree: Arc::default(),
            new_pid: None,
            connections,
            cgroups: Vec::new(),
            made_cgroups: None,
            clocks_since: Instant::now(),
        }
    }
}

impl RestoreContext<'_> {
    /// Notes something that stands in the way.
    pub(crate) fn obstacle(&mut self, place: Place, problem: String, help: Option<&str>) {
        self.obstacles.push(Obstacle {
            place,
            problem,
            help: help.map(str::to_owned),
        });
    }

    /// Notes a deviation that is said aloud.
    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// What the task's own id `old` in the image is now, as the task sees it.
    /// Ids that are not the task's stay what they were.
    pub(crate) fn id_now(&self, old: u32) -> u32 {
        let root = self.image.tasks.first().map(|task| task.pid);
        match self.new_pid {
            Some(new) if root == Some(old) => new,
            _ => old,
        }
    }

    /// Whether we have a capability, effectively.
    pub(crate) fn has_capability(&self, capability: CapabilitySet) -> bool {
        self.capabilities.contains(capability)
    }

    /// The image's CLOCK_MONOTONIC by now, nanoseconds.
    pub(crate) fn monotonic_ns(&self) -> i64 {
        let passed = i64::try_from(self.clocks_since.elapsed().as_nanos());
        let then = self.image.clocks.monotonic_ns;
        then.saturating_add(passed.unwrap_or(i64::MAX))
    }

    /// Tells the caller of a stage; a failure of theirs is ours.
    fn stage(&self, stage: Stage, pid: Option<u32>) -> Result<(), RestoreError> {
        self.cancelled()?;
        let moment = Moment {
            stage,
            images_dir: self.options.images_dir.clone(),
            init_pid: pid,
        };
        let told = self.options.observer.stage(&moment);
        told.map_err(|source| RestoreError::Stage { stage, source })
    }

    /// Ends the restore if the caller wishes so.
    fn cancelled(&self) -> Result<(), RestoreError> {
        match self.options.cancel.is_cancelled() {
            true => Err(RestoreError::Cancelled),
            false => Ok(()),
        }
    }
}
