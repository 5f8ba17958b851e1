//! Tasks and their threads.

use std::fmt::Write as _;

use icecore_images::Checkpoint;
use icecore_images::seccomp::SeccompState;
use icecore_images::task::{RunState, TaskState};
use icecore_images::thread::{Interrupted, ThreadState};

use super::table::Table;
use super::words;

/// Shows a task. Writing to a string cannot fail.
pub(super) fn show(out: &mut String, image: &Checkpoint, task: &TaskState) {
    let _ = writeln!(out, "\nTASK {}: {}", task.pid, state(task));
    if let Some(mm) = image.mms.get(task.mm.0 as usize) {
        let _ = writeln!(out, "  program  {}", words::file(&mm.exe));
    }
    if let Some(fs) = image.fs.get(task.fs.0 as usize) {
        let (cwd, root) = (words::file(&fs.cwd), words::file(&fs.root));
        let _ = writeln!(
            out,
            "  cwd      {cwd} (root {root}, umask {:03o})",
            fs.umask
        );
    }
    let parent = task
        .parent
        .map_or_else(String::new, |p| format!("parent {p}, "));
    let (pgid, sid) = (task.pgid, task.sid);
    let _ = writeln!(
        out,
        "  family   {parent}process group {pgid}, session {sid}"
    );
    if let Some(thread) = task.threads.first() {
        let creds = &thread.creds;
        let (uid, gid) = (creds.uids[1], creds.gids[1]);
        let _ = writeln!(out, "  user     uid {uid}, gid {gid}{}", powers(thread));
    }
    let timed = timers(task);
    if !timed.is_empty() {
        let _ = writeln!(out, "  timers   {}", timed.join("; "));
    }
    let queued: usize =
        task.pending.len() + task.threads.iter().map(|t| t.pending.len()).sum::<usize>();
    if queued > 0 {
        let _ = writeln!(out, "  signals  {queued} queued");
    }
    threads(out, task);
}

fn state(task: &TaskState) -> String {
    let threads = words::count(task.threads.len(), "thread");
    match task.run {
        RunState::Running => format!("running, {threads}"),
        RunState::Stopped { signal } => {
            format!("stopped by {}, {threads}", words::signal(signal))
        }
        RunState::Zombie { status } => format!("ended, wait status {status:#06x}"),
    }
}

/// What it may do beyond, or short of, its uid.
fn powers(thread: &ThreadState) -> String {
    let mut powers = String::new();
    let capabilities = thread.creds.cap_effective;
    if capabilities != 0 {
        let _ = write!(powers, ", capabilities {capabilities:#x}");
    }
    if thread.creds.no_new_privs {
        powers.push_str(", no new privileges");
    }
    match &thread.seccomp {
        SeccompState::Off => {}
        SeccompState::Strict => powers.push_str(", strict seccomp"),
        SeccompState::Filter(filters) => {
            let filters = words::count(filters.len(), "seccomp filter");
            let _ = write!(powers, ", {filters}");
        }
    }
    powers
}

fn timers(task: &TaskState) -> Vec<String> {
    const NAMES: [&str; 3] = ["ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF"];
    let interval = task.interval_timers.iter().zip(NAMES);
    let interval = interval
        .filter(|(timer, _)| timer.value_us != 0)
        .map(|(timer, name)| {
            let left = words::duration(timer.value_us.saturating_mul(1000));
            format!("{name} in {left}")
        });
    let posix = task.posix_timers.iter().map(|timer| {
        let clock = words::clock(timer.clock);
        match timer.remaining_ns {
            0 => format!("timer {} on {clock}, disarmed", timer.id),
            ns => format!("timer {} on {clock} in {}", timer.id, words::duration(ns)),
        }
    });
    interval.chain(posix).collect()
}

fn threads(out: &mut String, task: &TaskState) {
    let mut table = Table::new(["tid", "name", "where", "blocked signals"], &[0]);
    for thread in &task.threads {
        table.row([
            thread.tid.to_string(),
            thread.comm.to_string(),
            place(thread),
            words::signals(thread.signal_mask),
        ]);
    }
    table.write(out);
}

/// Where a thread was, and how it goes on.
fn place(thread: &ThreadState) -> String {
    let at = thread.registers.rip;
    let call = words::system_call(thread.registers.orig_rax);
    match thread.interrupted {
        Interrupted::No => format!("at {at:#x}"),
        Interrupted::Reissue => format!("in {call}, to be called again"),
        Interrupted::Timed { remaining_ns: None } => {
            format!("waiting in {call}, all over again")
        }
        Interrupted::Timed {
            remaining_ns: Some(ns),
        } => format!("waiting in {call}, {} left", words::duration(ns)),
    }
}
