//! Who belongs to the dump, by number.

use std::collections::{HashMap, HashSet};

use crate::kernel::stat::Stat;
use crate::tracer::Frozen;

/// The processes, threads and process groups of the dump.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// Tasks, zombies too.
    pids: HashSet<u32>,
    /// The task of each live thread.
    tids: HashMap<u32, u32>,
    groups: HashSet<u32>,
    /// Our own numbers of what is under way between tasks.
    pub(super) ours: HashSet<u32>,
}

impl Members {
    /// Those of a forest.
    pub(crate) fn of(frozen: &Frozen) -> Self {
        let mut members = Self::default();
        for task in &frozen.tasks {
            members.pids.insert(task.pid);
            members
                .tids
                .extend(task.tids().into_iter().map(|tid| (tid, task.pid)));
            members
                .groups
                .extend(Stat::read(task.a_tid()).map(|stat| stat.pgid));
        }
        members.pids.extend(frozen.zombies.iter().map(|z| z.pid));
        members
    }

    /// All tasks, in no order.
    pub(crate) fn processes(&self) -> impl Iterator<Item = u32> + '_ {
        self.pids.iter().copied()
    }

    /// Whether `pid` is a task of the dump, alive or not.
    pub(crate) fn has_process(&self, pid: u32) -> bool {
        self.pids.contains(&pid)
    }

    /// Whether `tid` is a thread of one of the tasks.
    pub(crate) fn has_thread(&self, tid: u32) -> bool {
        self.tids.contains_key(&tid) || self.pids.contains(&tid)
    }

    /// The task that `tid` is a live thread of.
    pub(crate) fn task_of(&self, tid: u32) -> Option<u32> {
        self.tids.get(&tid).copied()
    }

    /// Whether a task of the dump is in process group `pgid`.
    pub(crate) fn has_group(&self, pgid: u32) -> bool {
        self.groups.contains(&pgid)
    }
}
