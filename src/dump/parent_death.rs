//! Parent-death signals are sent when the thread that made the child ends, or
//! the one that the child was handed to since. A restore makes every child by
//! its parent's first thread.

use std::io;

use super::DumpContext;
use crate::blocker::Place;
use crate::kernel::proc_text::{self, number, words};
use crate::kernel::stat::Stat;
use crate::tracer::Frozen;

/// Who a child that asks for a signal is a child of.
#[derive(Debug, PartialEq, Eq)]
enum Maker {
    FirstThread,
    OtherThread,
    /// The first thread has ended. A restore makes it again and lets it end,
    /// which would send the signal.
    AfterTheFirst,
}

/// Looks at every task below the root that has asked for such a signal.
pub(super) fn check(ctx: &mut DumpContext<'_>, frozen: &Frozen) -> io::Result<()> {
    for (index, task) in frozen.tasks.iter().enumerate().skip(1) {
        let state = &ctx.tables.tasks[index];
        let mut threads = state.threads.iter();
        if threads.all(|thread| thread.controls.parent_death_signal == 0) {
            continue;
        }
        let parent = Stat::read(task.a_tid())?.ppid;
        match maker(parent, task.pid)? {
            Maker::FirstThread => {}
            Maker::OtherThread => ctx.notes.push(format!(
                "the parent-death signal of pid {} is sent when another than the first thread \
                 of pid {parent} ends: after a restore, when its first thread does",
                task.pid
            )),
            Maker::AfterTheFirst => {
                let problem = format!(
                    "it has asked for a parent-death signal, and the first thread of its \
                     parent, pid {parent}, has ended: a restore would send the signal"
                );
                let help = "let the program take it back (PR_SET_PDEATHSIG, 0)";
                ctx.block(Place::Task { pid: task.pid }, problem, Some(help));
            }
        }
    }
    Ok(())
}

fn maker(parent: u32, child: u32) -> io::Result<Maker> {
    if Stat::read(parent)?.state == b'Z' {
        return Ok(Maker::AfterTheFirst);
    }
    // Without CONFIG_PROC_CHILDREN it cannot be known.
    let Some(list) = proc_text::read_if_there(parent, &format!("task/{parent}/children"))? else {
        return Ok(Maker::FirstThread);
    };
    match words(&list).filter_map(number).any(|c: u32| c == child) {
        true => Ok(Maker::FirstThread),
        false => Ok(Maker::OtherThread),
    }
}
