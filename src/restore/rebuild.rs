//! Turning the processes of a tree into its tasks, up to their final registers:
//! each stage for all of them before the next begins, so that what some share
//! is there for all. What is shared is rebuilt once, by the first in the image
//! of those who have it.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

use icecore_images::mm::MmState;
use icecore_images::task::TaskState;

use super::descriptors::{self, Opened};
use super::forest::{Forest, is_dead};
use super::ghost::{self, Ghosts};
use super::late;
use super::memory::{self, Decided, Prepared};
use super::shmem::Shmems;
use super::tree::Node;
use super::{RestoreContext, blob, cgroup, micros, missing, new_pid, state, threads};
use crate::error::RestoreError;
use crate::tracer::Script;
use crate::tracer::remote::Pace;

/// What is opened and decided in the root of the restore before any process is
/// created.
#[derive(Debug)]
pub(super) struct Materials {
    pub(super) opened: Opened,
    pub(super) shmems: Shmems,
    _ghosts: Ghosts,
    /// By address space.
    prepared: Vec<Prepared>,
    /// By address space: bytes of room that the restorer needs there.
    rooms: Vec<usize>,
}

impl Materials {
    /// Makes shared memory and nameless files, opens every description and
    /// every mapped file.
    pub(super) fn gather(ctx: &mut RestoreContext<'_>) -> Result<Self, RestoreError> {
        let shmems = memory::create_shared(ctx)?;
        let ghosts = ghost::create_all(ctx, ctx.pages)?;
        let opened = descriptors::open_all(ctx, &shmems, &ghosts)?;
        let prepared = memory::prepare(ctx, &shmems, &ghosts)?;
        let mut materials = Self {
            opened,
            shmems,
            _ghosts: ghosts,
            prepared,
            rooms: Vec::new(),
        };
        materials.rooms = rooms(ctx, &materials)?;
        Ok(materials)
    }

    /// The address space of a task.
    pub(super) fn mm<'a>(
        &self,
        ctx: &RestoreContext<'a>,
        task: &TaskState,
    ) -> Result<&'a MmState, RestoreError> {
        let mm = ctx.image.mms.get(task.mm.0 as usize);
        mm.ok_or_else(|| missing(task.pid, "its address space"))
    }

    fn prepared(&self, task: &TaskState) -> Result<&Prepared, RestoreError> {
        let prepared = self.prepared.get(task.mm.0 as usize);
        prepared.ok_or_else(|| missing(task.pid, "its address space"))
    }
}

/// Who rebuilds what is shared: of those who have it the first in the image.
#[derive(Debug)]
pub(super) struct First {
    order: Vec<Node>,
    memory: HashMap<u32, Node>,
    files: HashMap<u32, Node>,
    fs: HashMap<u32, Node>,
    actions: HashMap<u32, Node>,
}

impl First {
    pub(super) fn of(ctx: &RestoreContext<'_>, forest: &Forest<'_>) -> Self {
        let order = forest.running(ctx.image.tasks.len());
        let by = |id: fn(&TaskState) -> u32| first_by(ctx, &order, id);
        Self {
            memory: by(|task| task.mm.0),
            files: by(|task| task.fd_table.0),
            fs: by(|task| task.fs.0),
            actions: by(|task| task.sig_hand.0),
            order,
        }
    }

    /// The task whose address space a task has.
    pub(super) fn of_memory(&self, task: &TaskState) -> Option<Node> {
        self.memory.get(&task.mm.0).copied()
    }

    /// All tasks, in the image's order.
    pub(super) fn order(&self) -> &[Node] {
        &self.order
    }
}

fn first_by<K: Eq + Hash>(
    ctx: &RestoreContext<'_>,
    order: &[Node],
    id: fn(&TaskState) -> K,
) -> HashMap<K, Node> {
    let mut first = HashMap::new();
    for &node in order {
        first.entry(id(&ctx.image.tasks[node])).or_insert(node);
    }
    first
}

/// Rebuilds every task.
pub(super) fn all<'a>(
    ctx: &mut RestoreContext<'a>,
    forest: &mut Forest<'a>,
    materials: &mut Materials,
) -> Result<(), RestoreError> {
    let start = Instant::now();
    let first = First::of(ctx, forest);
    let image = ctx.image;
    for &node in first.order() {
        let (task, child) = (&image.tasks[node], forest.child(node)?);
        cgroup::enter(ctx, task, child)?;
        state::from_outside(ctx, task, child)?;
    }
    for &node in first.order() {
        ctx.cancelled()?;
        build_memory(ctx, forest, materials, node)?;
    }
    for &node in first.order() {
        place_descriptors(ctx, forest, materials, &first, node)?;
    }
    for &node in first.order() {
        ctx.cancelled()?;
        give_state(ctx, forest, &first, node)?;
    }
    late::open_all(ctx, forest, &mut materials.opened)?;
    for &node in first.order() {
        finish_descriptors(ctx, forest, materials, &first, node)?;
    }
    for &node in first.order() {
        // Timers go on with what remains now.
        let task = &image.tasks[node];
        let script = built(|s| state::last(ctx, task, s));
        let child = forest.child(node)?;
        child.run("arm timers and queue signals", &script, Pace::Careful)?;
    }
    ctx.stats.rebuild_us = micros(start).saturating_sub(ctx.stats.pages_us);
    Ok(())
}

fn built(append: impl FnOnce(&mut Script)) -> Script {
    let mut script = Script::new();
    append(&mut script);
    script
}

/// Bytes of room that the restorer needs in each address space, for any script
/// of a task that has it.
fn rooms(ctx: &RestoreContext<'_>, materials: &Materials) -> Result<Vec<usize>, RestoreError> {
    let mut rooms = vec![0; ctx.image.mms.len()];
    for task in ctx.image.tasks.iter().filter(|task| !is_dead(task)) {
        let mm = materials.mm(ctx, task)?;
        let prepared = materials.prepared(task)?;
        let (opened, anew) = (&materials.opened, Decided::anew(mm));
        let scripts = [
            built(|s| descriptors::place(ctx, opened, task, s)),
            built(|s| descriptors::enter(ctx, opened, task, s)),
            built(|s| memory::map(ctx, mm, (prepared, &anew), s)),
            built(|s| memory::finish(mm, (prepared, &anew), s)),
            built(|s| state::before_threads(task, s)),
            built(|s| state::actions_of(ctx, task, s)),
            built(|s| descriptors::finish(ctx, opened, task, s)),
            built(|s| state::last(ctx, task, s)),
        ];
        let table = descriptors::table(ctx, task);
        let deliveries = table.map(|table| late::deliveries(ctx, opened, table));
        let deliveries = deliveries.into_iter().flatten().map(|d| d.script);
        let all = scripts.into_iter().chain(deliveries);
        let largest = all.map(|s| blob::room_for(&s)).max().unwrap_or(0);
        let largest = largest.max(threads::largest_script(ctx, task)) + SCRIPT_MARGIN;
        if let Some(room) = rooms.get_mut(task.mm.0 as usize) {
            *room = largest.max(*room);
        }
    }
    Ok(rooms)
}

/// Room beside the largest script: single calls' arguments, and the end mark.
const SCRIPT_MARGIN: usize = 4096;

/// Rebuilds the address space of a task, unless it has been.
pub(super) fn build_memory<'a>(
    ctx: &mut RestoreContext<'a>,
    forest: &mut Forest<'a>,
    materials: &Materials,
    node: Node,
) -> Result<(), RestoreError> {
    let task = &ctx.image.tasks[node];
    if let Some(&builder) = forest.built.get(&task.mm.0) {
        let process = &forest.child(builder)?.process;
        let (blob, gate) = (process.blob()?, process.gate());
        forest.child(node)?.live_with(Some(blob), gate);
        return Ok(());
    }
    let (mm, prepared) = (materials.mm(ctx, task)?, materials.prepared(task)?);
    let room = materials.rooms.get(task.mm.0 as usize).copied();
    let living = forest.living(node)?;
    let of = living.forked_with.and_then(|of| ctx.image.mms.get(of));
    let child = &mut living.child;
    child.move_in(mm, room.unwrap_or(0))?;
    let decided = match of {
        Some(of) => Decided::forked(ctx, child.process.pid, of, mm)?,
        None => Decided::anew(mm),
    };
    child.unmap_all_but(decided.kept())?;
    for forget in decided.forget() {
        child.run("leave another's memory", &forget, Pace::Fast)?;
    }
    let map = built(|s| memory::map(ctx, mm, (prepared, &decided), s));
    child.run("map the memory", &map, Pace::Fast)?;
    let filling = Instant::now();
    memory::fill(ctx, mm, (prepared, &decided), child.process.pid)?;
    ctx.stats.pages_us += micros(filling);
    if let Some(pid) = ctx.new_pid {
        new_pid::rewrite(&child.process, task, pid)?;
    }
    let finish = built(|s| memory::finish(mm, (prepared, &decided), s));
    child.run("finish the memory", &finish, Pace::Fast)?;
    forest.built.insert(task.mm.0, node);
    Ok(())
}

/// Places descriptors, and enters directories.
fn place_descriptors(
    ctx: &mut RestoreContext<'_>,
    forest: &mut Forest<'_>,
    materials: &Materials,
    first: &First,
    node: Node,
) -> Result<(), RestoreError> {
    let (task, opened) = (&ctx.image.tasks[node], &materials.opened);
    let child = forest.child(node)?;
    if first.files.get(&task.fd_table.0) == Some(&node) {
        let place = built(|s| descriptors::place(ctx, opened, task, s));
        child.run("place the descriptors", &place, Pace::Fast)?;
    }
    if first.fs.get(&task.fs.0) == Some(&node) {
        let enter = built(|s| descriptors::enter(ctx, opened, task, s));
        child.run("enter its directories", &enter, Pace::Fast)?;
    }
    Ok(())
}

/// The state of the task and of its threads.
fn give_state<'a>(
    ctx: &mut RestoreContext<'a>,
    forest: &mut Forest<'a>,
    first: &First,
    node: Node,
) -> Result<(), RestoreError> {
    // From here on the task has its own signal actions, which the breakpoint
    // of the fast pace would change.
    const STAGE: &str = "restore the task's state";
    let task = &ctx.image.tasks[node];
    let living = forest.living(node)?;
    let child = &mut living.child;
    let before = built(|s| state::before_threads(task, s));
    child.run(STAGE, &before, Pace::Careful)?;
    if first.actions.get(&task.sig_hand.0) == Some(&node) {
        let actions = built(|s| state::actions_of(ctx, task, s));
        child.run(STAGE, &actions, Pace::Careful)?;
    }
    living.threads = threads::create(ctx.options.pids, task, child)?;
    cgroup::place_threads(ctx, task, &living.threads)?;
    threads::restore_state(ctx, task, child, &mut living.threads)
}

fn finish_descriptors(
    ctx: &mut RestoreContext<'_>,
    forest: &mut Forest<'_>,
    materials: &Materials,
    first: &First,
    node: Node,
) -> Result<(), RestoreError> {
    let task = &ctx.image.tasks[node];
    if first.files.get(&task.fd_table.0) != Some(&node) {
        return Ok(());
    }
    let (opened, child) = (&materials.opened, forest.child(node)?);
    let Some(table) = descriptors::table(ctx, task) else {
        return Ok(());
    };
    for delivery in late::deliveries(ctx, opened, table) {
        delivery.send(opened)?;
        child.run("receive descriptors", &delivery.script, Pace::Careful)?;
    }
    let finish = built(|s| descriptors::finish(ctx, opened, task, s));
    child.run("finish the descriptors", &finish, Pace::Careful)?;
    Ok(())
}
