//! Creating a tree on paper: what each process would have at each moment.

use std::collections::HashMap;

use icecore_images::Checkpoint;
use icecore_images::task::TaskState;

use super::born::{self, Session};
use super::{Creation, Group, NoWay, Node, Planned, Step, TreePlan};

/// What a process may share with its maker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Share {
    Files,
    Fs,
    Memory,
    Actions,
}

const SHARES: [(Share, i32); 4] = [
    (Share::Files, libc::CLONE_FILES),
    (Share::Fs, libc::CLONE_FS),
    (Share::Memory, libc::CLONE_VM),
    (Share::Actions, libc::CLONE_SIGHAND),
];

/// The state of the tree so far.
#[derive(Debug)]
pub(super) struct Simulation<'a> {
    image: &'a Checkpoint,
    born: Vec<Option<Session>>,
    pub(super) nodes: Vec<Planned>,
    /// By node: what it has; `None`: not created yet.
    pub(super) now: Vec<Option<Now>>,
    /// Who has each thing that can be shared.
    holders: HashMap<(Share, u32), Vec<usize>>,
    temporary: Vec<Node>,
    steps: Vec<Step>,
}

/// What a process has at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) session: Session,
    pub(super) group: Group,
}

/// What a task has of a kind; nothing, if it has ended.
fn held(task: &TaskState, share: Share) -> Option<u32> {
    (!task.threads.is_empty()).then_some(match share {
        Share::Files => task.fd_table.0,
        Share::Fs => task.fs.0,
        Share::Memory => task.mm.0,
        Share::Actions => task.sig_hand.0,
    })
}

fn holders(image: &Checkpoint) -> HashMap<(Share, u32), Vec<usize>> {
    let mut holders: HashMap<_, Vec<usize>> = HashMap::new();
    for (index, task) in image.tasks.iter().enumerate() {
        for (share, _) in SHARES {
            if let Some(id) = held(task, share) {
                holders.entry((share, id)).or_default().push(index);
            }
        }
    }
    holders
}

impl<'a> Simulation<'a> {
    pub(super) fn new(image: &'a Checkpoint) -> Self {
        let tasks = image.tasks.iter().enumerate();
        let index: HashMap<u32, usize> = tasks.map(|(i, task)| (task.pid, i)).collect();
        let parent = |task: &TaskState| task.parent.and_then(|pid| index.get(&pid).copied());
        let parents: Vec<Option<usize>> = image.tasks.iter().map(parent).collect();
        let planned = image.tasks.iter().zip(&parents);
        Self {
            image,
            born: born::sessions(image, &parents),
            nodes: planned
                .map(|(task, parent)| Planned {
                    pid: Some(task.pid),
                    parent: *parent,
                })
                .collect(),
            now: vec![None; image.tasks.len()],
            holders: holders(image),
            temporary: Vec::new(),
            steps: Vec::new(),
        }
    }

    pub(super) fn image(&self) -> &'a Checkpoint {
        self.image
    }

    /// Creates whoever can be created, the simplest ways first.
    pub(super) fn create_all(&mut self) {
        while self.create_from_parents()
            || self.start_sessions()
            || self.create_from_siblings()
            || self.create_orphan()
            || self.stand_in_for_a_leader()
        {}
    }

    /// Tasks for which there was no way. Whose parent has none is not named.
    pub(super) fn impossible(&self) -> Vec<NoWay> {
        let missing = self.waiting().into_iter();
        missing
            .map(|task| NoWay {
                task,
                reason: self.why_not(task),
            })
            .collect()
    }

    pub(super) fn into_plan(self) -> TreePlan {
        TreePlan {
            nodes: self.nodes,
            steps: self.steps,
        }
    }

    /// Tasks that do not exist, of parents that do.
    fn waiting(&self) -> Vec<usize> {
        let exists = |parent: Option<Node>| parent.is_none_or(|p| self.now[p].is_some());
        let tasks = 0..self.image.tasks.len();
        tasks
            .filter(|&t| self.now[t].is_none() && exists(self.nodes[t].parent))
            .collect()
    }

    /// Children of their makers, nothing special about them.
    fn create_from_parents(&mut self) -> bool {
        let mut progress = false;
        // In the image's order: whole branches in one go.
        for task in 0..self.image.tasks.len() {
            let parent = self.nodes[task].parent;
            if self.now[task].is_some() || parent.is_some_and(|p| self.now[p].is_none()) {
                continue;
            }
            if self.may_make(parent, task) {
                let flags = parent.map_or(0, |parent| self.shared(parent, task));
                let exit_signal = self.image.tasks[task].exit_signal;
                self.create(task, parent, flags, exit_signal);
                progress = true;
            }
        }
        progress
    }

    /// A leader starts its session when nobody waits to be born in its old one.
    fn start_sessions(&mut self) -> bool {
        let mut progress = false;
        for task in 0..self.image.tasks.len() {
            let TaskState { pid, sid, .. } = self.image.tasks[task];
            let started = Session::Id(pid);
            if pid == sid && self.now[task].is_some_and(|now| now.session != started) {
                self.start_session(task, pid);
                progress = true;
            }
        }
        progress
    }

    fn start_session(&mut self, node: Node, pid: u32) {
        self.now[node] = Some(Now {
            session: Session::Id(pid),
            group: Group::Id(pid),
        });
        self.steps.push(Step::StartSession(node));
    }

    /// A sibling makes a child for its own parent.
    fn create_from_siblings(&mut self) -> bool {
        for task in self.waiting() {
            let Some(parent) = self.nodes[task].parent else {
                continue;
            };
            let signal = self.image.tasks[task].exit_signal;
            let sibling = (0..self.image.tasks.len()).find(|&s| {
                self.nodes[s].parent == Some(parent)
                    && self.image.tasks[s].exit_signal == signal
                    && self.may_make(Some(s), task)
            });
            if let Some(sibling) = sibling {
                // The exit signal is the maker's.
                let flags = self.shared(sibling, task) | libc::CLONE_PARENT as u64;
                self.create(task, Some(sibling), flags, 0);
                return true;
            }
        }
        false
    }

    /// Somebody further below makes a temporary process, which makes the task
    /// and ends: the task is adopted by its parent.
    fn create_orphan(&mut self) -> bool {
        for task in self.waiting() {
            let Some(parent) = self.nodes[task].parent else {
                continue;
            };
            let signal = self.image.tasks[task].exit_signal;
            let all = 0..self.nodes.len();
            let maker = all
                .filter(|_| signal == libc::SIGCHLD as u32)
                .find(|&m| self.is_below(m, parent) && self.may_make(Some(m), task));
            if let Some(maker) = maker {
                let between = self.add_temporary(None, maker);
                let flags = self.shared(maker, task);
                self.steps.push(Step::Adopt(parent, true));
                self.create(between, Some(maker), flags, 0);
                self.create(task, Some(between), flags, signal);
                self.steps.push(Step::End(between));
                self.now[between] = None;
                self.steps.push(Step::Adopt(parent, false));
                return true;
            }
        }
        false
    }

    /// For a session that nobody in the image leads a temporary process does,
    /// below the deepest parent that has a child in it.
    fn stand_in_for_a_leader(&mut self) -> bool {
        let mut deepest: Option<(usize, Node, u32)> = None;
        for task in self.waiting() {
            let (Some(parent), Some(Session::Id(session))) =
                (self.nodes[task].parent, self.born[task])
            else {
                continue;
            };
            let led = self.image.tasks.iter().any(|t| t.pid == session);
            let stood_in = self.nodes.iter().any(|n| n.pid == Some(session));
            let depth = self.depth(parent);
            if !led && !stood_in && deepest.is_none_or(|(d, ..)| depth > d) {
                deepest = Some((depth, parent, session));
            }
        }
        let Some((_, parent, session)) = deepest else {
            return false;
        };
        let leader = self.add_temporary(Some(session), parent);
        self.temporary.push(leader);
        self.create(leader, Some(parent), 0, 0);
        self.start_session(leader, session);
        true
    }

    /// A process that is there for a while, in the session of `maker`; it
    /// ends with the plan.
    pub(super) fn lend(&mut self, pid: u32, maker: Node) -> Node {
        let node = self.add_temporary(Some(pid), maker);
        self.temporary.push(node);
        self.create(node, Some(maker), 0, 0);
        node
    }

    fn add_temporary(&mut self, pid: Option<u32>, maker: Node) -> Node {
        self.nodes.push(Planned {
            pid,
            parent: Some(maker),
        });
        self.now.push(None);
        self.nodes.len() - 1
    }

    /// Ends all temporary processes, the latest first.
    pub(super) fn end_temporary(&mut self) {
        while let Some(node) = self.temporary.pop() {
            self.steps.push(Step::End(node));
        }
    }

    pub(super) fn join(&mut self, node: Node, group: Group) {
        if let Some(now) = &mut self.now[node]
            && now.group != group
        {
            now.group = group;
            self.steps.push(Step::Join(node, group));
        }
    }

    fn create(&mut self, node: Node, by: Option<Node>, flags: u64, exit_signal: u32) {
        let outer = Now {
            session: Session::Outer,
            group: Group::Outer,
        };
        self.now[node] = by.map_or(Some(outer), |maker| self.now[maker]);
        self.steps.push(Step::Create(Creation {
            node,
            by,
            flags,
            exit_signal,
        }));
    }

    /// Whether `task`, made by `maker` now, would be in the right session and
    /// share with whom it must.
    fn may_make(&self, maker: Option<Node>, task: usize) -> bool {
        let session = match maker {
            None => Session::Outer,
            Some(maker) => match self.now[maker] {
                Some(now) => now.session,
                None => return false,
            },
        };
        self.born[task].is_none_or(|born| born == session)
            && SHARES.iter().all(|&(share, _)| {
                !self.is_shared(task, share) || maker.is_some_and(|m| self.share(m, task, share))
            })
            && !maker.is_some_and(|m| {
                self.share(m, task, Share::Actions) && !self.share(m, task, Share::Memory)
            })
    }

    /// Whether somebody who exists has what `task` shares.
    fn is_shared(&self, task: usize, share: Share) -> bool {
        let held = held(&self.image.tasks[task], share);
        let holders = held.and_then(|id| self.holders.get(&(share, id)));
        let mut others = holders.into_iter().flatten();
        others.any(|&other| other != task && self.now[other].is_some())
    }

    fn share(&self, a: Node, b: Node, share: Share) -> bool {
        let held = |node: Node| held(self.image.tasks.get(node)?, share);
        held(a).is_some() && held(a) == held(b)
    }

    /// CLONE_* of what `task` shares with its maker.
    fn shared(&self, maker: Node, task: usize) -> u64 {
        let flags = SHARES
            .iter()
            .filter(|(share, _)| self.share(maker, task, *share));
        flags.fold(0, |flags, (_, flag)| flags | *flag as u64)
    }

    fn is_below(&self, node: Node, ancestor: Node) -> bool {
        let mut above = self.nodes[node].parent;
        while let Some(parent) = above {
            if parent == ancestor {
                return true;
            }
            above = self.nodes[parent].parent;
        }
        false
    }

    fn depth(&self, node: Node) -> usize {
        let (mut depth, mut at) = (0, node);
        while let Some(parent) = self.nodes[at].parent {
            (depth, at) = (depth + 1, parent);
        }
        depth
    }

    /// Every process there is, the tasks first.
    pub(super) fn existing(&self) -> impl Iterator<Item = Node> {
        let all = 0..self.nodes.len();
        all.filter(|&node| self.now[node].is_some())
    }

    fn why_not(&self, task: usize) -> String {
        let state = &self.image.tasks[task];
        let shared = |share| self.is_shared(task, share);
        let what = match () {
            () if shared(Share::Actions) && !shared(Share::Memory) => {
                return "it shares its signal actions with a task whose memory it does not share"
                    .to_owned();
            }
            () if shared(Share::Memory) => "memory",
            () if shared(Share::Files) => "descriptor table",
            () if shared(Share::Fs) => "working directory",
            () => {
                return format!(
                    "it is in session {}, and no task of that session is where it could have \
                     been made for its parent",
                    state.sid
                );
            }
        };
        format!(
            "it shares its {what} with a task in session {} that could not make it for its parent",
            state.sid
        )
    }
}
