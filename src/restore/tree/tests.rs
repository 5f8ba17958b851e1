//! Plans, carried out on paper by a kernel of a few lines.

use std::collections::BTreeMap;

use icecore_images::Checkpoint;
use icecore_images::ids::{FdTableId, MmId, SigHandId};
use icecore_images::task::TaskState;

use super::*;
use crate::restore::tests::image_of;

const OUTSIDE: u32 = 9000;

/// pid, parent, group, session.
fn tree(tasks: &[(u32, u32, u32, u32)]) -> Checkpoint {
    let mut image = image_of(tasks.iter().map(|t| t.0));
    for (task, &(_, parent, pgid, sid)) in image.tasks.iter_mut().zip(tasks) {
        (task.pgid, task.sid) = (pgid, sid);
        task.parent = (parent != 0).then_some(parent);
    }
    for (index, task) in image.tasks.iter_mut().enumerate() {
        let id = index as u32;
        (task.mm, task.fd_table) = (MmId(id), FdTableId(id));
        (task.fs, task.sig_hand) = (icecore_images::ids::FsId(id), SigHandId(id));
    }
    image
}

/// What a process of the paper kernel has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    parent: Option<Node>,
    sid: u32,
    pgid: u32,
    exit_signal: u32,
    files: u32,
    adopts: bool,
}

/// Does what the plan says as the kernel does it.
fn carry_out(plan: &TreePlan, pids: &dyn Fn(Node) -> u32) -> BTreeMap<Node, Process> {
    let mut now: BTreeMap<Node, Process> = BTreeMap::new();
    for step in &plan.steps {
        match step {
            Step::Create(creation) => {
                let made = create(&now, creation);
                assert!(now.insert(creation.node, made).is_none());
            }
            Step::StartSession(node) => {
                let process = now.get_mut(node).unwrap();
                assert_ne!(process.pgid, pids(*node), "EPERM");
                (process.sid, process.pgid) = (pids(*node), pids(*node));
            }
            Step::Join(node, group) => join(&mut now, *node, *group, pids(*node)),
            Step::Adopt(node, adopts) => now.get_mut(node).unwrap().adopts = *adopts,
            Step::End(node) => end(&mut now, *node),
        }
    }
    now
}

fn create(now: &BTreeMap<Node, Process>, creation: &Creation) -> Process {
    let Some(by) = creation.by else {
        return Process {
            parent: None,
            sid: OUTSIDE,
            pgid: OUTSIDE,
            exit_signal: creation.exit_signal,
            files: creation.node as u32,
            adopts: false,
        };
    };
    let maker = &now[&by];
    let sibling = creation.flags & libc::CLONE_PARENT as u64 != 0;
    assert!(!sibling || creation.exit_signal == 0, "EINVAL");
    let files = creation.flags & libc::CLONE_FILES as u64 != 0;
    Process {
        parent: if sibling { maker.parent } else { Some(by) },
        exit_signal: match sibling {
            true => maker.exit_signal,
            false => creation.exit_signal,
        },
        files: if files {
            maker.files
        } else {
            creation.node as u32
        },
        adopts: false,
        ..maker.clone()
    }
}

fn join(now: &mut BTreeMap<Node, Process>, node: Node, group: Group, pid: u32) {
    let target = match group {
        Group::Id(id) => id,
        Group::Outer => OUTSIDE,
    };
    let sid = now[&node].sid;
    assert_ne!(sid, pid, "a session leader cannot move");
    let exists = now.values().any(|p| p.pgid == target && p.sid == sid);
    assert!(
        exists || target == pid || target == OUTSIDE,
        "no group {target}"
    );
    now.get_mut(&node).unwrap().pgid = target;
}

fn end(now: &mut BTreeMap<Node, Process>, node: Node) {
    let process = now.remove(&node).unwrap();
    let mut reaper = process.parent;
    while let Some(at) = reaper.filter(|at| !now[at].adopts) {
        reaper = now[&at].parent;
    }
    for child in now.values_mut().filter(|p| p.parent == Some(node)) {
        (child.parent, child.exit_signal) = (reaper, 17);
    }
}

/// Everybody is where the image says.
fn is_right(image: &Checkpoint) {
    let plan = plan(image).unwrap();
    let pids = |node: Node| plan.nodes[node].pid.unwrap_or(5000 + node as u32);
    let now = carry_out(&plan, &pids);
    assert_eq!(now.len(), image.tasks.len(), "only the tasks are left");
    let root = &image.tasks[0];
    for (node, task) in image.tasks.iter().enumerate() {
        let is = &now[&node];
        let parent = is.parent.map(|p| image.tasks[p].pid);
        let known = |id: u32, roots: u32| match id == roots && roots != root.pid {
            true => OUTSIDE,
            false => id,
        };
        let found = (parent, is.pgid, is.sid, is.exit_signal);
        let sid = known(task.sid, root.sid);
        let pgid = known(task.pgid, root.pgid);
        assert_eq!(
            found,
            (task.parent, pgid, sid, task.exit_signal),
            "{task:?}"
        );
    }
    for (a, b) in pairs(image) {
        let shared = image.tasks[a].fd_table == image.tasks[b].fd_table;
        assert_eq!(now[&a].files == now[&b].files, shared, "{a} and {b}");
    }
}

fn pairs(image: &Checkpoint) -> impl Iterator<Item = (Node, Node)> {
    let count = image.tasks.len();
    (0..count).flat_map(move |a| (0..a).map(move |b| (a, b)))
}

fn refused(image: &Checkpoint) -> Vec<String> {
    let no_way = plan(image).unwrap_err();
    no_way.into_iter().map(|n| n.reason).collect()
}

#[test]
fn a_pipeline_of_a_script() {
    is_right(&tree(&[
        (10, 0, 10, 10),
        (11, 10, 10, 10),
        (12, 10, 10, 10),
        (13, 12, 10, 10),
    ]));
}

#[test]
fn jobs_of_a_shell_that_leads_no_session() {
    is_right(&tree(&[
        (10, 0, 10, 7),
        (11, 10, 11, 7),
        (12, 10, 11, 7),
        (13, 10, 10, 7),
    ]));
}

#[test]
fn everything_of_a_root_in_anothers_group() {
    is_right(&tree(&[(10, 0, 8, 7), (11, 10, 8, 7), (12, 11, 12, 12)]));
}

#[test]
fn a_daemon_whose_session_leader_is_gone() {
    is_right(&tree(&[
        (10, 0, 10, 10),
        (12, 10, 11, 11),
        (13, 12, 11, 11),
    ]));
}

#[test]
fn a_child_from_before_its_parents_session() {
    is_right(&tree(&[
        (10, 0, 10, 10),
        (11, 10, 11, 11),
        (12, 11, 10, 10),
        (13, 11, 11, 11),
    ]));
}

#[test]
fn a_leader_that_came_from_a_session_whose_leader_is_gone() {
    is_right(&tree(&[
        (10, 0, 10, 10),
        (12, 10, 12, 12),
        (13, 12, 11, 11),
        (14, 12, 12, 12),
    ]));
}

#[test]
fn an_orphan_adopted_from_a_session_further_below() {
    is_right(&tree(&[
        (10, 0, 10, 10),
        (11, 10, 10, 10),
        (12, 11, 12, 12),
        (13, 10, 12, 12),
        (14, 10, 13, 12),
    ]));
}

#[test]
fn a_group_whose_leader_is_gone_and_one_whose_leader_went_to_another() {
    is_right(&tree(&[
        (10, 0, 10, 10),
        (12, 10, 11, 10),
        (13, 10, 11, 10),
        (14, 10, 13, 10),
    ]));
}

#[test]
fn siblings_that_share_their_descriptors() {
    let mut image = tree(&[(10, 0, 10, 10), (11, 10, 10, 10), (12, 10, 10, 10)]);
    image.tasks[2].fd_table = image.tasks[1].fd_table;
    is_right(&image);
    let last = |plan: TreePlan| match plan.steps.last() {
        Some(Step::Create(creation)) => creation.flags,
        other => panic!("{other:?}"),
    };
    let both = (libc::CLONE_FILES | libc::CLONE_PARENT) as u64;
    assert_eq!(last(plan(&image).unwrap()), both);
}

#[test]
fn an_orphan_that_shares_with_one_further_below() {
    let mut image = tree(&[
        (10, 0, 10, 10),
        (11, 10, 10, 10),
        (12, 11, 10, 10),
        (13, 10, 10, 10),
    ]);
    image.tasks[3].fd_table = image.tasks[2].fd_table;
    is_right(&image);
}

#[test]
fn the_ended_share_nothing() {
    let mut image = tree(&[(10, 0, 10, 10), (11, 10, 10, 10)]);
    image.tasks[1].threads.clear();
    image.tasks[1].fd_table = image.tasks[0].fd_table;
    match plan(&image).unwrap().steps.last() {
        Some(Step::Create(creation)) => assert_eq!(creation.flags, 0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_impossible_session_is_named() {
    // 12 is in a session that only a task beside its parent leads.
    let image = tree(&[
        (10, 0, 10, 10),
        (11, 10, 11, 11),
        (12, 10, 12, 12),
        (13, 12, 11, 11),
    ]);
    let reasons = refused(&image);
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(reasons[0].contains("session 11"), "{reasons:?}");
}

#[test]
fn actions_shared_without_memory_are_refused() {
    let mut image = tree(&[(10, 0, 10, 10), (11, 10, 10, 10)]);
    image.tasks[1].sig_hand = image.tasks[0].sig_hand;
    assert!(refused(&image)[0].contains("signal actions"));
}

#[test]
fn a_thousand_tasks_take_no_time() {
    let mut tasks = vec![(1000, 0, 1000, 1000)];
    tasks.extend((1001..2000).map(|pid| (pid, pid - 1, 1000, 1000)));
    is_right_at_the_ends(&tree(&tasks));
}

fn is_right_at_the_ends(image: &Checkpoint) {
    let plan = plan(image).unwrap();
    assert_eq!(plan.steps.len(), image.tasks.len() + 1);
    let task: &TaskState = &image.tasks[999];
    assert_eq!(plan.nodes[999].pid, Some(task.pid));
}
