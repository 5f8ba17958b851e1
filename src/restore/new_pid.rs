//! A task under a new pid (`--pids new`): what in its memory holds the old one.
//!
//! The C library keeps the id of each thread in its thread control block. glibc
//! has the kernel clear that very word when the thread ends, so
//! `clear_child_tid` leads to it; musl keeps it at a fixed place behind the
//! thread pointer. Mutexes that are held by id cannot be found: a task that
//! holds robust ones is refused.

use icecore_images::task::TaskState;
use icecore_images::thread::ThreadState;

use super::child::Process;
use crate::error::RestoreError;

/// Where musl's `struct pthread` keeps the thread id; its first word points at
/// itself.
const MUSL_TID: u64 = 48;
/// Where `struct robust_list_head` keeps the lock that is being taken.
const PENDING: u64 = 16;

/// Writes the new id wherever the task keeps its own, once its memory is
/// filled.
pub(crate) fn rewrite(process: &Process, task: &TaskState, new: u32) -> Result<(), RestoreError> {
    let thread = &task.threads[0];
    let refuse = |reason: &str| RestoreError::NewPid {
        pid: task.pid,
        reason: reason.to_owned(),
    };
    if holds_robust_locks(process, thread) {
        return Err(refuse("it holds a robust lock, which names its owner"));
    }
    if thread.clear_child_tid == 0 {
        return Ok(()); // no C library
    }
    let place = tid_place(process, thread)
        .ok_or_else(|| refuse("its C library keeps the thread id at an unknown place"))?;
    process.write("write the new thread id", place, &new.to_le_bytes())
}

fn tid_place(process: &Process, thread: &ThreadState) -> Option<u64> {
    let holds_tid = |at: &u64| {
        let bytes = process.memory.read(*at, 4);
        bytes.is_ok_and(|b| b == thread.tid.to_le_bytes())
    };
    let glibc = Some(thread.clear_child_tid).filter(holds_tid);
    glibc.or_else(|| {
        let base = thread.registers.fs_base;
        let is_musl = word(process, base) == Some(base);
        let at = base.checked_add(MUSL_TID)?;
        Some(at).filter(|at| is_musl && holds_tid(at))
    })
}

fn holds_robust_locks(process: &Process, thread: &ThreadState) -> bool {
    let head = thread.robust_list.head;
    if head == 0 {
        return false;
    }
    let first = word(process, head);
    let pending = head.checked_add(PENDING).and_then(|at| word(process, at));
    first != Some(head) || pending != Some(0)
}

fn word(process: &Process, at: u64) -> Option<u64> {
    let bytes = process.memory.read(at, 8).ok()?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}
