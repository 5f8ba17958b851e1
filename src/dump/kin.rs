//! Other processes that a task is bound to. This version carries one process:
//! who is bound to another is refused, and the other is named.

use std::io;

use super::DumpContext;
use crate::blocker::Place;
use crate::kernel::kcmp;
use crate::kernel::proc_text::{self, number, words};
use crate::kernel::stat::Stat;
use crate::kernel::status::Status;

const ONE_PROCESS: &str = "this version carries one process at a time";

/// Notes children, processes that share memory, descriptors or other state
/// with the task, and processes it traces.
pub(super) fn check(ctx: &mut DumpContext<'_>, pid: u32, tids: &[u32]) -> io::Result<()> {
    for &tid in tids {
        for child in children(tid)? {
            block_child(ctx, pid, child);
        }
    }
    let Some(&tid) = tids.first() else {
        return Ok(());
    };
    note_session(ctx, pid, &Stat::read(tid)?);
    for other in processes()?.into_iter().filter(|p| *p != pid) {
        block_shared(ctx, pid, tid, other);
        // A process that is gone meanwhile traces and is traced no more.
        if Status::read(other).is_ok_and(|s| s.tracer == pid || tids.contains(&s.tracer)) {
            let problem = format!("it traces {} with ptrace", name(other));
            ctx.block(Place::Task { pid }, problem, None);
        }
    }
    Ok(())
}

/// Children, by the thread that made them.
fn children(tid: u32) -> io::Result<Vec<u32>> {
    let path = format!("task/{tid}/children");
    match proc_text::read_if_there(tid, &path)? {
        Some(text) => Ok(words(&text).filter_map(number).collect()),
        // No CONFIG_PROC_CHILDREN: look at everybody's parent.
        None => Ok(processes()?
            .into_iter()
            .filter(|p| Stat::read(*p).is_ok_and(|s| s.ppid == tid))
            .collect()),
    }
}

fn block_child(ctx: &mut DumpContext<'_>, pid: u32, child: u32) {
    let zombie = Stat::read(child).is_ok_and(|s| s.state == b'Z');
    let problem = match zombie {
        true => format!(
            "it has a child that ended and was not waited for: {}",
            name(child)
        ),
        false => format!("it has a child: {}", name(child)),
    };
    ctx.block(Place::Task { pid }, problem, Some(ONE_PROCESS));
}

/// A task whose session is led from outside wakes up in the session of whoever
/// restores it: said aloud, unless `-j` says that it is known.
fn note_session(ctx: &mut DumpContext<'_>, pid: u32, stat: &Stat) {
    if stat.sid == pid || ctx.options.shell_job {
        return;
    }
    let leader = match Stat::read(stat.sid) {
        Ok(_) => name(stat.sid),
        Err(_) => format!("pid {}, which has ended", stat.sid),
    };
    ctx.notes.push(format!(
        "the session of pid {pid} is that of {leader}, which is not in the dump: \
         a restore puts it into icecore's"
    ));
}

/// What two processes can have in common beyond namespaces. Where kcmp(2) is
/// refused (another user's process) nothing can be shared that exec and
/// setuid have not parted.
fn block_shared(ctx: &mut DumpContext<'_>, pid: u32, tid: u32, other: u32) {
    let common = [
        ("memory", kcmp::same_memory(tid, other)),
        (
            "its descriptor table",
            kcmp::same_descriptor_table(tid, other),
        ),
        ("working directory and root", kcmp::same_fs(tid, other)),
        ("signal handlers", kcmp::same_signal_handlers(tid, other)),
    ];
    let common: Vec<&str> = common
        .into_iter()
        .filter_map(|(what, same)| matches!(same, Ok(true)).then_some(what))
        .collect();
    if !common.is_empty() {
        let problem = format!("it shares {} with {}", common.join(", "), name(other));
        ctx.block(Place::Task { pid }, problem, Some(ONE_PROCESS));
    }
}

fn processes() -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        pids.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<u32>().ok()),
        );
    }
    Ok(pids)
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
    fn a_child_is_found_and_named() -> io::Result<()> {
        let mut child = std::process::Command::new("sleep").arg("60").spawn()?;
        let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let found = children(tid);
        let named = name(child.id());
        child.kill()?;
        child.wait()?;
        assert!(found?.contains(&child.id()));
        assert!(named.starts_with(&format!("pid {}", child.id())), "{named}");
        Ok(())
    }
}
