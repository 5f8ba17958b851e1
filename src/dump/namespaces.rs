//! Namespaces: a task lives in those of icecore, or is refused with the
//! command that would work.

use std::io;
use std::path::{Path, PathBuf};

use super::DumpContext;
use crate::blocker::Place;
use crate::tracer::FrozenTask;

/// Namespaces a task must share with icecore: name under /proc/PID/ns, option
/// of nsenter(1). Clocks are read inside the task, so that its time namespace
/// is carried; see [`for_children`]. Cgroup namespaces are carried too.
const SHARED: [(&str, &str); 6] = [
    ("user", "--user"),
    ("mnt", "--mount"),
    ("net", "--net"),
    ("ipc", "--ipc"),
    ("uts", "--uts"),
    ("pid", "--pid"),
];

/// Notes every namespace that keeps `pid` from being dumped from here; `tid`
/// is a live thread of it, `inner_pid` its pid in its own pid namespace.
pub(super) fn check(
    ctx: &mut DumpContext<'_>,
    pid: u32,
    tid: u32,
    inner_pid: u32,
) -> io::Result<()> {
    let foreign = foreign(tid)?;
    if !foreign.is_empty() {
        let (names, options): (Vec<_>, Vec<_>) = foreign.iter().copied().unzip();
        let problem = format!(
            "it is in other namespaces than icecore: {}",
            names.join(", ")
        );
        let target = if names.contains(&"pid") {
            inner_pid
        } else {
            pid
        };
        let help = format!(
            "nsenter --target {pid} {} -- icecore dump --tree {target} …",
            options.join(" ")
        );
        ctx.block(Place::Task { pid }, problem, Some(&help));
    }
    for kind in ["pid", "time"] {
        if for_children(tid, kind)? {
            let problem = format!("its children would be in another {kind} namespace than itself");
            ctx.block(Place::Task { pid }, problem, None);
        }
    }
    Ok(())
}

/// Notes tasks whose clocks are not those of the first: the clocks of a dump
/// are one set.
pub(super) fn check_clocks(ctx: &mut DumpContext<'_>, tasks: &[FrozenTask]) -> io::Result<()> {
    let of = |task: &FrozenTask| namespace(&format!("/proc/{}/ns/time", task.a_tid()));
    let Some(root) = tasks.first() else {
        return Ok(());
    };
    let common = of(root)?;
    for task in &tasks[1..] {
        if of(task)? != common {
            let problem = format!("it is in another time namespace than pid {}", root.pid);
            ctx.block(Place::Task { pid: task.pid }, problem, None);
        }
    }
    Ok(())
}

fn foreign(tid: u32) -> io::Result<Vec<(&'static str, &'static str)>> {
    let mut foreign = Vec::new();
    for (name, option) in SHARED {
        let theirs = namespace(&format!("/proc/{tid}/ns/{name}"))?;
        if theirs.is_some() && theirs != namespace(&format!("/proc/self/ns/{name}"))? {
            foreign.push((name, option));
        }
    }
    Ok(foreign)
}

/// Whether the task has unshared a namespace that only its children will have.
fn for_children(tid: u32, kind: &str) -> io::Result<bool> {
    let own = namespace(&format!("/proc/{tid}/ns/{kind}"))?;
    let children = namespace(&format!("/proc/{tid}/ns/{kind}_for_children"))?;
    Ok(children.is_some() && own != children)
}

/// What a link says (`net:[4026531840]`); `None` where the kernel has no such
/// namespace, or none yet (a pid namespace without its init).
fn namespace(path: &str) -> io::Result<Option<PathBuf>> {
    match std::fs::read_link(Path::new(path)) {
        Ok(link) => Ok(Some(link)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_share_our_own_namespaces() -> io::Result<()> {
        let me = std::process::id();
        assert!(foreign(me)?.is_empty());
        assert!(!for_children(me, "pid")?);
        assert!(!for_children(me, "time")?);
        assert!(namespace("/proc/self/ns/user")?.is_some());
        Ok(())
    }
}
