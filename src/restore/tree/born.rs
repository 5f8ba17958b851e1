//! Which session a task has to be born in.

use std::collections::HashMap;

use icecore_images::Checkpoint;
use icecore_images::task::TaskState;

/// A session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Session {
    /// By its id.
    Id(u32),
    /// The restorer's, in place of one that is not in the image.
    Outer,
}

/// The session of a task. The root's, where it leads none itself, is none of
/// the image's; so is one beyond the pid namespace of the dump, which shows as 0.
pub(super) fn session_of(image: &Checkpoint, task: &TaskState) -> Session {
    let root = image.tasks.first();
    let outer = root
        .filter(|root| root.sid != root.pid)
        .map(|root| root.sid);
    match task.sid == 0 || (Some(task.sid) == outer && task.sid != task.pid) {
        true => Session::Outer,
        false => Session::Id(task.sid),
    }
}

/// For each task the session it is to be born in; `None`: any. A task that
/// leads a session may have had children before: they are in the one it was
/// born in, which is that of an ancestor. (Children in other sessions have come
/// to it as orphans.)
pub(super) fn sessions(image: &Checkpoint, parents: &[Option<usize>]) -> Vec<Option<Session>> {
    let mut born: Vec<Option<Session>> = vec![None; image.tasks.len()];
    let mut wanted: HashMap<usize, Session> = HashMap::new();
    // Children come after their parents.
    for (index, task) in image.tasks.iter().enumerate().rev() {
        born[index] = match task.sid == task.pid {
            true => wanted.get(&index).copied(),
            false => Some(session_of(image, task)),
        };
        if let (Some(parent), Some(session)) = (parents[index], born[index])
            && is_above(image, parents, parent, session)
        {
            wanted.entry(parent).or_insert(session);
        }
    }
    born
}

/// Whether an ancestor of `task` is in the session, or has come from it.
fn is_above(image: &Checkpoint, parents: &[Option<usize>], task: usize, session: Session) -> bool {
    let leader = image.tasks[task].pid;
    if session == Session::Id(leader) {
        return false;
    }
    let mut above = parents[task];
    while let Some(ancestor) = above {
        if session_of(image, &image.tasks[ancestor]) == session {
            return true;
        }
        above = parents[ancestor];
    }
    session == Session::Outer
}
