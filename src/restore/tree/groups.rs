//! Process groups, once every task is in its session.

use std::collections::{BTreeMap, BTreeSet};

use icecore_images::task::TaskState;

use super::born::{Session, session_of};
use super::simulation::Simulation;
use super::{Group, Node};

/// Puts every task into its group. Those that groups are named after come
/// first; where one is gone, a process stands in for it; who has made a group
/// but is in another leaves it last.
pub(super) fn arrange(simulation: &mut Simulation<'_>) {
    let image = simulation.image();
    let mut members: BTreeMap<u32, Session> = BTreeMap::new();
    for task in &image.tasks {
        if let Group::Id(group) = group_of(simulation, task) {
            members.insert(group, session_of(image, task));
        }
    }
    let named: BTreeMap<u32, Node> = existing(simulation);
    let mut makers = BTreeSet::new();
    for (&group, &session) in &members {
        let maker = match named.get(&group) {
            Some(&maker) => Some(maker),
            None => {
                let of_session =
                    |node: &Node| simulation.now[*node].is_some_and(|now| now.session == session);
                let maker = simulation.existing().find(of_session);
                maker.map(|maker| simulation.lend(group, maker))
            }
        };
        if let Some(maker) = maker {
            simulation.join(maker, Group::Id(group));
            makers.insert(maker);
        }
    }
    let tasks = 0..image.tasks.len();
    let (last, first): (Vec<Node>, Vec<Node>) = tasks.partition(|task| makers.contains(task));
    for task in first.into_iter().chain(last) {
        let group = group_of(simulation, &image.tasks[task]);
        simulation.join(task, group);
    }
}

/// The group of a task; the root's, where it is none of the image's, is the
/// restorer's.
fn group_of(simulation: &Simulation<'_>, task: &TaskState) -> Group {
    let image = simulation.image();
    let outer = session_of(image, task) == Session::Outer;
    let root = image.tasks.first();
    let roots = root.filter(|root| root.pgid != root.pid).map(|r| r.pgid);
    match task.pgid == 0 || (outer && roots == Some(task.pgid) && task.pgid != task.pid) {
        true => Group::Outer,
        false => Group::Id(task.pgid),
    }
}

fn existing(simulation: &Simulation<'_>) -> BTreeMap<u32, Node> {
    let existing = simulation.existing();
    existing
        .filter_map(|node| Some((simulation.nodes[node].pid?, node)))
        .collect()
}
