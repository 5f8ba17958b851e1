//! What a task may have that can be seen but not carried, and belongs to no
//! other resource.

use std::io;

use rustix::process::Pid;
use rustix::thread::{CoreSchedulingScope, core_scheduling_cookie};

use super::DumpContext;
use crate::blocker::Place;
use crate::kernel::status::Status;
use crate::kernel::{kcmp, proc_text, sysv_sem};
use crate::tracer::{FrozenThread, peek};

/// Notes what the task as a whole has; `tid` is a live thread of it.
pub(super) fn check_task(ctx: &mut DumpContext<'_>, pid: u32, tid: u32) -> io::Result<()> {
    let place = Place::Task { pid };
    if let Some(label) = foreign_label(tid) {
        let problem = format!("its security label is {label}, which icecore would not give back");
        let help = format!("run icecore itself under that label: runcon {label} icecore …");
        ctx.block(place.clone(), problem, Some(&help));
    }
    check_semaphores(ctx, place, pid, tid)
}

/// Notes what one thread has.
pub(super) fn check_thread(
    ctx: &mut DumpContext<'_>,
    place: &Place,
    thread: &FrozenThread,
    status: &Status,
) -> io::Result<()> {
    if !status.thread_features.is_empty() {
        let problem = format!("its shadow stack is on ({})", status.thread_features);
        ctx.block(place.clone(), problem, None);
    }
    if peek::has_io_ports(thread.tid)? {
        let problem = "it may use I/O ports (ioperm)".to_owned();
        ctx.block(place.clone(), problem, None);
    }
    if core_cookie(thread.tid) != 0 {
        let problem = "it has a core-scheduling cookie (PR_SCHED_CORE)".to_owned();
        ctx.block(place.clone(), problem, None);
    }
    Ok(())
}

/// The task's security label where it differs from ours.
fn foreign_label(tid: u32) -> Option<String> {
    let label = |id: u32| proc_text::read(id, "attr/current").ok();
    let theirs = label(tid)?;
    let text = theirs.trim_ascii_end();
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    (!text.is_empty() && label(std::process::id()).as_ref() != Some(&theirs))
        .then(|| String::from_utf8_lossy(text).into_owned())
}

/// A semaphore undo list cannot be read, and every program with threads has
/// one. A task may hold something in it only if it has operated on a semaphore.
fn check_semaphores(ctx: &mut DumpContext<'_>, place: Place, pid: u32, tid: u32) -> io::Result<()> {
    let own = rustix::thread::gettid().as_raw_nonzero().get() as u32;
    // Having threads, we have a list ourselves; where we cannot do without, the
    // task passes for one that has one.
    let _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_SYSVSEM);
    if matches!(kcmp::same_semaphore_undo(tid, own), Ok(true)) {
        return Ok(());
    }
    for set in sysv_sem::last_operated_by(pid)? {
        let problem = format!(
            "it has operated on System V semaphore set {set}, and what it may have to undo \
             there (SEM_UNDO) cannot be read"
        );
        ctx.block(place.clone(), problem, None);
    }
    Ok(())
}

/// 0: none, or a kernel without core scheduling.
fn core_cookie(tid: u32) -> u64 {
    Pid::from_raw(tid as i32)
        .and_then(|tid| core_scheduling_cookie(tid, CoreSchedulingScope::Thread).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_have_none_of_it() {
        let me = std::process::id();
        assert_eq!(foreign_label(me), None);
        assert_eq!(core_cookie(me), 0);
    }
}
