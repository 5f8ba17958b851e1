//! The processes of a tree under restore: created as the plan says, gone
//! without a trace unless they are let go.

use std::collections::{HashMap, HashSet};

use icecore_images::task::{RunState, TaskState};
use rustix::io::Errno;

use super::child::Child;
use super::namespace::Init;
use super::rebuild::{self, Materials};
use super::threads::Thread;
use super::tree::{Creation, Group, Node, Step, TreePlan};
use super::{RestoreContext, cow, pids, spawn};
use crate::error::RestoreError;
use crate::kernel::clone3::CloneArgs;
use crate::options::PidPolicy;

/// The processes of a tree. Dropped, it ends them all, children first, each
/// reaped by its parent.
#[derive(Debug)]
pub(super) struct Forest<'a> {
    /// By node.
    living: Vec<Option<Living<'a>>>,
    /// Who has been created, in this order.
    created: Vec<Node>,
    /// By id in the image: the id as this process sees it, of those that have
    /// been ended.
    ended: HashMap<u32, u32>,
    /// By node: its pid in its namespace, and its parent.
    kin: Vec<(u32, Option<Node>)>,
    /// The group the first process was born in.
    outer_group: Option<u64>,
    spare_ids: pids::Spare,
    /// By address space that has been rebuilt: who has it.
    pub(super) built: HashMap<u32, Node>,
    /// After the processes: its end waits for theirs.
    init: Option<Init>,
}

/// A process of the tree.
#[derive(Debug)]
pub(super) struct Living<'a> {
    pub(super) child: Child,
    /// Its threads beside the first.
    pub(super) threads: Vec<Thread<'a>>,
    /// The signal mask that a leader shows which had exited.
    pub(super) leader_exits: Option<u64>,
    /// The address space, by its index, that it was forked with, where it is
    /// not a copy of icecore's.
    pub(super) forked_with: Option<usize>,
}

impl<'a> Forest<'a> {
    /// Creates every process of `plan` and ends those that are only there for
    /// a while.
    pub(super) fn spawn(
        ctx: &mut RestoreContext<'a>,
        plan: &TreePlan,
        materials: &Materials,
        init: Option<Init>,
    ) -> Result<Self, RestoreError> {
        let kin = plan.nodes.iter();
        let mut forest = Self {
            living: plan.nodes.iter().map(|_| None).collect(),
            created: Vec::with_capacity(plan.nodes.len()),
            kin: kin.map(|n| (n.pid.unwrap_or(0), n.parent)).collect(),
            ended: HashMap::new(),
            outer_group: None,
            spare_ids: pids::Spare::of(ctx.image),
            built: HashMap::new(),
            init,
        };
        for step in &plan.steps {
            if let Step::Create(creation) = step {
                forest.share_memory(ctx, materials, creation)?;
            }
            forest.take(ctx, step)?;
        }
        if let Some(init) = &mut forest.init {
            init.withdraw()?;
        }
        Ok(forest)
    }

    fn take(&mut self, ctx: &mut RestoreContext<'a>, step: &Step) -> Result<(), RestoreError> {
        match *step {
            Step::Create(ref creation) => self.create(ctx, creation),
            Step::StartSession(node) => {
                let child = self.child(node)?;
                child.syscall("become a session leader", libc::SYS_setsid, &[])?;
                Ok(())
            }
            Step::Join(node, group) => self.join(node, group),
            Step::Adopt(node, adopts) => {
                let args = [libc::PR_SET_CHILD_SUBREAPER as u64, u64::from(adopts)];
                let child = self.child(node)?;
                child.syscall("adopt orphans", libc::SYS_prctl, &args)?;
                Ok(())
            }
            Step::End(node) => self.end(node),
        }
    }

    /// A task that is to have memory in common with its maker is forked from
    /// the maker's memory as it is to be.
    fn share_memory(
        &mut self,
        ctx: &mut RestoreContext<'a>,
        materials: &Materials,
        creation: &Creation,
    ) -> Result<(), RestoreError> {
        let tasks = &ctx.image.tasks;
        let (Some(task), Some(maker)) = (
            tasks.get(creation.node),
            creation.by.and_then(|maker| tasks.get(maker)),
        ) else {
            return Ok(());
        };
        if is_dead(task) || is_dead(maker) || task.mm == maker.mm {
            return Ok(());
        }
        let (mm, of) = (materials.mm(ctx, task)?, materials.mm(ctx, maker)?);
        match (creation.by, cow::have_common_pages(mm, of)) {
            (Some(maker), true) => rebuild::build_memory(ctx, self, materials, maker),
            _ => Ok(()),
        }
    }

    fn create(
        &mut self,
        ctx: &mut RestoreContext<'a>,
        creation: &Creation,
    ) -> Result<(), RestoreError> {
        let node = creation.node;
        let child = match creation.by {
            None => self.create_root(ctx, node)?,
            Some(maker) => self.create_from(maker, creation)?,
        };
        // A temporary process hands on what it has itself.
        let maker = creation
            .by
            .and_then(|maker| self.living[maker].as_ref().map(|l| (maker, l)));
        let forked_with = maker.and_then(|(maker, living)| {
            let mm = ctx.image.tasks.get(maker).map(|task| task.mm.0);
            let built = mm.filter(|mm| self.built.contains_key(mm));
            built.map(|mm| mm as usize).or(living.forked_with)
        });
        self.living[node] = Some(Living {
            child,
            threads: Vec::new(),
            leader_exits: None,
            forked_with,
        });
        self.created.push(node);
        Ok(())
    }

    fn create_root(
        &mut self,
        ctx: &mut RestoreContext<'a>,
        node: Node,
    ) -> Result<Child, RestoreError> {
        let task = ctx.image.tasks.get(node);
        let task = task.ok_or_else(|| super::missing(0, "a task"))?;
        let mut child = match &mut self.init {
            Some(init) => init.create(task)?,
            None => spawn::task(ctx, task)?,
        };
        if ctx.options.pids == PidPolicy::New {
            ctx.new_pid = Some(child.process.pid);
            self.kin[node].0 = child.process.pid;
        }
        spawn::tell_of_session(ctx, task);
        // One that is ignored would hide how children end.
        child.set_action(libc::SIGCHLD as u32, libc::SIG_DFL as u64)?;
        let group = child.syscall("look at its process group", libc::SYS_getpgid, &[0])?;
        self.outer_group.get_or_insert(group);
        Ok(child)
    }

    fn create_from(&mut self, maker: Node, creation: &Creation) -> Result<Child, RestoreError> {
        let (mut pid, _) = self.kin[creation.node];
        if pid == 0 {
            pid = self.spare_ids.next().unwrap_or(0);
            self.kin[creation.node].0 = pid;
        }
        let args = CloneArgs {
            flags: creation.flags,
            exit_signal: u64::from(creation.exit_signal),
            ..CloneArgs::default()
        };
        let maker = self.child(maker)?;
        let scratch = maker.scratch();
        let what = format!("create pid {pid}");
        let remote = maker.create(&what, scratch, Some(pid), args)?;
        maker.descendant(pid, remote)
    }

    fn join(&mut self, node: Node, group: Group) -> Result<(), RestoreError> {
        let own = self.kin[node].0;
        let group = match group {
            // Its own, under whatever number.
            Group::Id(id) if id == own => 0,
            Group::Id(id) => u64::from(id),
            Group::Outer => self.outer_group.unwrap_or(0),
        };
        let child = self.child(node)?;
        let own_now = child.process.image_pid;
        let group = if group == u64::from(own_now) {
            0
        } else {
            group
        };
        let what = format!("join process group {group}");
        child.syscall(&what, libc::SYS_setpgid, &[0, group])?;
        Ok(())
    }

    /// Ends a process that was there for a while.
    fn end(&mut self, node: Node) -> Result<(), RestoreError> {
        let what = "end a process that stood in for another";
        let living = self.living.get_mut(node).and_then(Option::take);
        let pid = self.kin[node].0;
        let gone = || super::missing(pid, what);
        drop(living.ok_or_else(gone)?);
        self.created.retain(|&created| created != node);
        match self.reap(node) {
            true => Ok(()),
            false => Err(gone()),
        }
    }

    /// Has a process that has ended be reaped by its parent. False where that
    /// did not come about.
    fn reap(&mut self, node: Node) -> bool {
        let (pid, parent) = self.kin[node];
        let living = parent.and_then(|parent| self.living.get_mut(parent)?.as_mut());
        let Some(parent) = living else { return false };
        let options = (libc::__WALL | libc::WNOHANG) as u64;
        let wait = [u64::from(pid), 0, options, 0];
        let (leader, gate) = (&mut parent.child.leader, parent.child.process.gate());
        let reaped = leader.syscall(gate, libc::SYS_wait4 as u32, &wait);
        reaped.is_ok_and(|reaped| reaped.value == i64::from(pid))
    }

    /// Ends those that had ended, for their parents to reap.
    pub(super) fn end_the_dead(
        &mut self,
        ctx: &mut RestoreContext<'a>,
    ) -> Result<(), RestoreError> {
        let mut told = HashSet::new();
        for (node, task) in ctx.image.tasks.iter().enumerate() {
            let RunState::Zombie { status } = task.run else {
                continue;
            };
            let living = self.living.get_mut(node).and_then(Option::take);
            let living = living.ok_or_else(|| super::missing(task.pid, "the process"))?;
            self.ended.insert(task.pid, living.child.process.pid);
            living.child.die(status)?;
            if status & WCOREDUMP != 0 {
                ctx.note(format!(
                    "pid {}, which had ended and waits to be reaped, had dumped core: its status \
                     does not say so any more",
                    task.pid
                ));
            }
            if let Some(parent) = self.kin[node].1 {
                told.insert((parent, task.exit_signal));
            }
        }
        for (parent, signal) in told {
            self.child(parent)?.forget_signal(signal)?;
        }
        Ok(())
    }

    /// The tasks that run, by their index in the image.
    pub(super) fn running(&self, tasks: usize) -> Vec<Node> {
        let all = self.living.iter().take(tasks).enumerate();
        let running = all.filter(|(_, living)| living.is_some());
        running.map(|(node, _)| node).collect()
    }

    /// The process of a node.
    pub(super) fn living(&mut self, node: Node) -> Result<&mut Living<'a>, RestoreError> {
        let pid = self.kin.get(node).map_or(0, |kin| kin.0);
        let living = self.living.get_mut(node).and_then(Option::as_mut);
        living.ok_or(RestoreError::Step {
            pid,
            what: "find the process".to_owned(),
            source: Errno::SRCH,
        })
    }

    /// The process of a node, by its first thread.
    pub(super) fn child(&mut self, node: Node) -> Result<&mut Child, RestoreError> {
        Ok(&mut self.living(node)?.child)
    }

    /// The init of its namespace, if it has one of ours.
    pub(super) fn init(&self) -> Option<&Init> {
        self.init.as_ref()
    }

    /// The same, to be changed.
    pub(super) fn init_mut(&mut self) -> Option<&mut Init> {
        self.init.as_mut()
    }

    /// What a task's or thread's id in the image is now, as this process sees it.
    pub(super) fn live_id(&self, old: u32) -> Option<u32> {
        let mut all = self.all();
        let found = all.find_map(|living| {
            let process = &living.child.process;
            let mut threads = living.threads.iter();
            let thread = || threads.find(|t| t.state.tid == old).map(|t| t.remote.tid());
            (process.image_pid == old)
                .then_some(process.pid)
                .or_else(thread)
        });
        found.or_else(|| self.ended.get(&old).copied())
    }

    /// Everything, to be let go: from here on nothing is ended.
    pub(super) fn into_parts(mut self) -> (Vec<Living<'a>>, Option<Init>) {
        let created = std::mem::take(&mut self.created);
        let living = created.into_iter().rev();
        let living = living.filter_map(|node| self.living[node].take()).collect();
        (living, self.init.take())
    }

    /// All that live, as they were created.
    pub(super) fn all(&self) -> impl Iterator<Item = &Living<'a>> {
        let created = self.created.iter();
        created.filter_map(|&node| self.living[node].as_ref())
    }
}

impl Drop for Forest<'_> {
    fn drop(&mut self) {
        while let Some(node) = self.created.pop() {
            drop(self.living[node].take());
            self.reap(node);
        }
    }
}

/// WCOREFLAG.
const WCOREDUMP: i32 = 0x80;

/// Whether the task had ended.
pub(super) fn is_dead(task: &TaskState) -> bool {
    matches!(task.run, RunState::Zombie { .. })
}
