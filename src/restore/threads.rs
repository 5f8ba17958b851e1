//! Threads: created in the task by clone3(set_tid), attached at once.

use icecore_images::signals::SigAltStack;
use icecore_images::task::TaskState;
use icecore_images::thread::ThreadState;

use super::RestoreContext;
use super::child::Child;
use super::state;
use crate::error::RestoreError;
use crate::kernel::clone3::CloneArgs;
use crate::options::PidPolicy;
use crate::tracer::Script;
use crate::tracer::remote::{Pace, Remote};

/// What the threads of a task share, and more than which none could.
const FLAGS: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM;

/// A thread beside the first.
#[derive(Debug)]
pub(crate) struct Thread<'a> {
    pub(crate) remote: Remote,
    pub(crate) state: &'a ThreadState,
}

/// Whether the task's first thread had exited while others lived on.
pub(crate) fn leader_has_exited(task: &TaskState) -> bool {
    task.threads.first().is_none_or(|t| t.tid != task.pid)
}

/// Creates every thread but the first.
pub(crate) fn create<'a>(
    pids: PidPolicy,
    task: &'a TaskState,
    child: &mut Child,
) -> Result<Vec<Thread<'a>>, RestoreError> {
    let others = task.threads.iter().filter(|t| t.tid != task.pid);
    others
        .map(|state| {
            let remote = create_one(pids, child, state.tid)?;
            Ok(Thread { remote, state })
        })
        .collect()
}

fn create_one(pids: PidPolicy, child: &mut Child, tid: u32) -> Result<Remote, RestoreError> {
    let scratch = child.process.blob()?.script();
    let chosen = (pids != PidPolicy::New).then_some(tid);
    let args = CloneArgs {
        flags: FLAGS as u64,
        ..CloneArgs::default()
    };
    child.create(&format!("create thread {tid}"), scratch, chosen, args)
}

/// Gives every thread its own state, each by its own hand.
pub(crate) fn restore_state(
    ctx: &RestoreContext<'_>,
    task: &TaskState,
    child: &mut Child,
    threads: &mut [Thread<'_>],
) -> Result<(), RestoreError> {
    const STAGE: &str = "restore the thread's state";
    for thread in threads {
        let script = thread_script(ctx, task, thread.state);
        let (remote, tid) = (&mut thread.remote, thread.state.tid);
        child
            .process
            .run_in(remote, tid, STAGE, &script, Pace::Careful)?;
    }
    let leader = leader_state(task);
    let script = thread_script(ctx, task, &leader);
    child.run(STAGE, &script, Pace::Careful)?;
    Ok(())
}

fn thread_script(ctx: &RestoreContext<'_>, task: &TaskState, thread: &ThreadState) -> Script {
    let mut script = Script::new();
    state::thread(ctx, task, thread, &mut script);
    script
}

/// The state of the first thread. One that had exited has left nothing that
/// the image could hold; its credentials, by which others may signal the
/// task, are those of the next.
pub(crate) fn leader_state(task: &TaskState) -> ThreadState {
    let mut leader = task.threads[0].clone();
    if leader_has_exited(task) {
        leader.tid = task.pid;
        leader.pending.clear();
        leader.alt_stack = SigAltStack {
            flags: libc::SS_DISABLE as u32,
            ..SigAltStack::default()
        };
        leader.robust_list = Default::default();
        leader.clear_child_tid = 0;
        leader.rseq = None;
        leader.syscall_user_dispatch = None;
    }
    leader
}

/// Bytes that the largest of the threads' scripts takes.
pub(crate) fn largest_script(ctx: &RestoreContext<'_>, task: &TaskState) -> usize {
    let scripts = task.threads.iter().map(|t| thread_script(ctx, task, t));
    scripts
        .map(|s| super::blob::room_for(&s))
        .max()
        .unwrap_or(0)
}
