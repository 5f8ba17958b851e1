//! What tasks of the dump have in common, with each other and with processes
//! outside; the latter is refused, and who they are is said.

use std::cmp::Ordering;
use std::io;

use super::DumpContext;
use super::members::Members;
use crate::blocker::Place;
use crate::kernel::kcmp::{self, Object};
use crate::kernel::proc_text;
use crate::kernel::stat::Stat;
use crate::tracer::{Frozen, FrozenTask};

/// Which objects the tasks have, by index of the task.
#[derive(Debug)]
pub(super) struct Sharing {
    pub(super) mms: Vec<Share>,
    pub(super) fd_tables: Vec<Share>,
    pub(super) fs: Vec<Share>,
    pub(super) sig_hands: Vec<Share>,
}

/// An object that a task has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Its number: objects are counted in the order in which they first appear.
    pub(super) id: u32,
    /// No task before has it.
    pub(super) first: bool,
}

impl Sharing {
    /// Finds out.
    pub(super) fn of(tasks: &[FrozenTask]) -> io::Result<Self> {
        let tids: Vec<u32> = tasks.iter().map(FrozenTask::a_tid).collect();
        let group = |object| kcmp::group(object, &tids).map(shares);
        Ok(Self {
            mms: group(Object::Memory)?,
            fd_tables: group(Object::DescriptorTable)?,
            fs: group(Object::Fs)?,
            sig_hands: group(Object::SignalHandlers)?,
        })
    }
}

fn shares(ids: Vec<u32>) -> Vec<Share> {
    let mut next = 0;
    let share = |id| {
        let first = id == next;
        next += u32::from(first);
        Share { id, first }
    };
    ids.into_iter().map(share).collect()
}

/// What binds a task of the dump to a process outside.
#[derive(Debug)]
pub(super) struct Bond {
    /// The task.
    pid: u32,
    problem: String,
    help: Option<&'static str>,
}

/// Looks for processes outside that share memory, descriptors or other state
/// with a task of the dump, or are traced by one. It takes as long as there are
/// processes: other things may be done meanwhile.
pub(super) fn find_bonds(members: &Members, ours: &Sorted) -> io::Result<Vec<Bond>> {
    let mut bonds = Vec::new();
    for other in proc_text::processes()? {
        if members.has_process(other) {
            continue;
        }
        bonds.extend(shared(ours, other));
        if let Some(tracer) = tracer(other)
            && let Some(pid) = members.task_of(tracer)
        {
            bonds.push(Bond {
                pid,
                problem: format!("it traces {} with ptrace", name(other)),
                help: None,
            });
        }
    }
    Ok(bonds)
}

/// Who traces a process: one that is gone meanwhile is traced no more. (Asked of
/// every process there is, so nothing else of `status` is looked at.)
fn tracer(pid: u32) -> Option<u32> {
    let status = proc_text::read(pid, "status").ok()?;
    let field = proc_text::words(proc_text::field(&status, "TracerPid")?).next()?;
    proc_text::number(field)
}

/// Notes what was found.
pub(super) fn note_bonds(ctx: &mut DumpContext<'_>, bonds: Vec<Bond>) {
    for Bond { pid, problem, help } in bonds {
        ctx.block(Place::Task { pid }, problem, help);
    }
}

/// Where the root's session is not in the dump, it wakes up in that of whoever
/// restores it, and so does who is in the same: said aloud, unless `-j` says
/// that it is known. (Any other session is made again, also without its leader.)
pub(super) fn note_session(ctx: &mut DumpContext<'_>, frozen: &Frozen) -> io::Result<()> {
    let Some(root) = frozen.tasks.first() else {
        return Ok(());
    };
    let sid = Stat::read(root.a_tid())?.sid;
    if ctx.options.shell_job || ctx.members.has_process(sid) {
        return Ok(());
    }
    let leader = match Stat::read(sid) {
        Ok(_) => name(sid),
        Err(_) => format!("pid {sid}, which has ended"),
    };
    ctx.notes.push(format!(
        "the session of pid {} is that of {leader}, which is not in the dump: \
         a restore puts it into icecore's",
        root.pid
    ));
    Ok(())
}

const OBJECTS: [(Object, &str); 4] = [
    (Object::Memory, "memory"),
    (Object::DescriptorTable, "its descriptor table"),
    (Object::Fs, "working directory and root"),
    (Object::SignalHandlers, "signal handlers"),
];

/// The tasks of the dump, each as a thread and its pid, in the kernel's order of
/// each kind of object.
#[derive(Debug)]
pub(super) struct Sorted([Vec<(u32, u32)>; 4]);

impl Sorted {
    /// Finds out.
    pub(super) fn of(tasks: &[FrozenTask]) -> io::Result<Self> {
        let mut failure = None;
        let sorted = OBJECTS.map(|(object, _)| {
            let mut ours: Vec<_> = tasks.iter().map(|t| (t.a_tid(), t.pid)).collect();
            ours.sort_by(|a, b| {
                kcmp::order(object, a.0, b.0).unwrap_or_else(|e| {
                    failure = Some(e);
                    Ordering::Equal
                })
            });
            ours
        });
        match failure {
            Some(e) => Err(e),
            None => Ok(Self(sorted)),
        }
    }

    /// The task that has the same object as `other`, by the object's kind.
    /// Where kcmp(2) is refused (another user's process) nothing can be shared
    /// that exec and setuid have not parted.
    fn partner(&self, kind: usize, other: u32) -> Option<u32> {
        let mut refused = false;
        let ours = &self.0[kind];
        let found = ours.binary_search_by(|(tid, _)| {
            kcmp::order(OBJECTS[kind].0, *tid, other).unwrap_or_else(|_| {
                refused = true;
                Ordering::Greater
            })
        });
        (!refused)
            .then(|| found.ok().map(|at| ours[at].1))
            .flatten()
    }
}

fn shared(ours: &Sorted, other: u32) -> impl Iterator<Item = Bond> {
    let mut common: Vec<(u32, Vec<&str>)> = Vec::new();
    for (kind, (_, what)) in OBJECTS.iter().enumerate() {
        let Some(pid) = ours.partner(kind, other) else {
            continue;
        };
        match common.iter_mut().find(|(p, _)| *p == pid) {
            Some((_, all)) => all.push(what),
            None => common.push((pid, vec![what])),
        }
    }
    common.into_iter().map(move |(pid, what)| Bond {
        pid,
        problem: format!(
            "it shares {} with {}, outside the dump",
            what.join(", "),
            name(other)
        ),
        help: Some("dump a tree that holds both"),
    })
}

/// `pid 12 (sleep)`.
fn name(pid: u32) -> String {
    match Stat::read(pid) {
        Ok(stat) => format!("pid {pid} ({})", icecore_images::ByteString(stat.comm)),
        Err(_) => format!("pid {pid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_object_is_found() {
        let shares = shares(vec![0, 0, 1, 0, 2, 1]);
        let first: Vec<bool> = shares.iter().map(|s| s.first).collect();
        assert_eq!(first, [true, false, true, false, true, false]);
    }
}
