//! The plan of a tree: who creates whom, in which order, so that every task has
//! its parent, session and process group and shares what it shared. It is made
//! before anything is created; where the kernel gives no way, it says so.
//!
//! What the kernel offers:
//! - a process is born in its maker's session and group, and shares with its
//!   maker or with nobody;
//! - its parent is its maker, or its maker's parent (CLONE_PARENT), or, once its
//!   maker has ended, the nearest ancestor that adopts orphans;
//! - a session or group whose leader is gone had one once: a process that is
//!   there for a while stands in for it.

mod born;
mod groups;
mod simulation;
#[cfg(test)]
mod tests;

use icecore_images::Checkpoint;

use simulation::Simulation;

/// A process of the plan, by its index in [`TreePlan::nodes`].
pub(crate) type Node = usize;

/// How a tree is made.
#[derive(Debug, Default)]
pub(crate) struct TreePlan {
    /// Every process: the image's tasks at their indices there, then those that
    /// are there for a while.
    pub(crate) nodes: Vec<Planned>,
    /// What is done, in this order.
    pub(crate) steps: Vec<Step>,
}

/// A process of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Its pid; `None`: any that no task of the image has.
    pub(crate) pid: Option<u32>,
    /// Its parent in the end (of a temporary one: its maker).
    pub(crate) parent: Option<Node>,
}

/// A step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A process is created.
    Create(Creation),
    /// setsid(2).
    StartSession(Node),
    /// setpgid(2).
    Join(Node, Group),
    /// Whether it adopts orphans from here on, for the time of the plan.
    Adopt(Node, bool),
    /// A temporary process ends and is reaped by its maker.
    End(Node),
}

/// A process group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    /// By its id.
    Id(u32),
    /// The one the first process is born in, which is not in the image.
    Outer,
}

/// How a process is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Creation {
    /// Who.
    pub(crate) node: Node,
    /// By whom; `None`: by the restorer.
    pub(crate) by: Option<Node>,
    /// CLONE_* of what it shares with its maker, and CLONE_PARENT.
    pub(crate) flags: u64,
    /// What its parent gets when it ends.
    pub(crate) exit_signal: u32,
}

/// Why a task cannot be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoWay {
    /// Its index in the image.
    pub(crate) task: usize,
    /// Why.
    pub(crate) reason: String,
}

/// Makes the plan, or says of which tasks there can be none.
pub(crate) fn plan(image: &Checkpoint) -> Result<TreePlan, Vec<NoWay>> {
    let mut simulation = Simulation::new(image);
    simulation.create_all();
    let impossible = simulation.impossible();
    if !impossible.is_empty() {
        return Err(impossible);
    }
    groups::arrange(&mut simulation);
    simulation.end_temporary();
    Ok(simulation.into_plan())
}

impl TreePlan {
    /// Ids that belong to no task but are needed for a while: of sessions and
    /// groups whose leaders are gone. `tasks` is how many tasks the image has.
    pub(crate) fn borrowed_ids(&self, tasks: usize) -> impl Iterator<Item = u32> {
        let temporary = self.nodes.iter().skip(tasks);
        temporary.filter_map(|node| node.pid)
    }
}
