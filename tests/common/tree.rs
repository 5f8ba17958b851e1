//! Trees of processes, as `/proc` shows them.

use std::fs;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// Everything below `pid`, parents before children, the ended included.
pub(crate) fn below(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        let mut found = children(parent);
        found.sort_unstable();
        parents.extend(found.iter().rev());
        all.extend(found);
    }
    all
}

/// Children of a process, by whichever of its threads.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = threads.flatten().map(|thread| {
        let list = fs::read_to_string(thread.path().join("children"));
        list.unwrap_or_default()
    });
    let lists: Vec<String> = lists.collect();
    let words = lists.iter().flat_map(|list| list.split_whitespace());
    words.filter_map(|word| word.parse().ok()).collect()
}

/// Fields of `stat` from the third on; `None` if there is no such process.
pub(crate) fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Whether it has ended and was not reaped.
pub(crate) fn is_dead(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| fields.first().is_some_and(|state| state == "Z"))
}

/// Reaps what of `pids` has become this process's to reap: their parents are
/// gone. An error names the first that stays.
pub(crate) fn reap(pids: &[u32]) -> Result<(), String> {
    for &pid in pids {
        let raw = Pid::from_raw(pid.cast_signed()).ok_or("pid 0")?;
        let gone = super::wait::until("a process to be gone", super::wait::LIMIT, || {
            Ok(match waitpid(Some(raw), WaitOptions::NOHANG) {
                Ok(Some(_)) => Some(()),
                Ok(None) => None,
                Err(Errno::CHILD) => stat(pid).is_none().then_some(()),
                Err(e) => return Err(e.to_string()),
            })
        });
        gone.map_err(|e| format!("pid {pid}: {e}"))?;
    }
    Ok(())
}

/// Ends what is left of `pids`, whose parents have been ended, and reaps it.
pub(crate) fn end(pids: &[u32]) {
    let alive = |pid: &&u32| stat(**pid).is_some();
    for &pid in pids.iter().filter(alive) {
        if let Some(raw) = Pid::from_raw(pid.cast_signed()) {
            let _ = kill_process(raw, Signal::KILL);
        }
    }
    for &pid in pids {
        let Some(raw) = Pid::from_raw(pid.cast_signed()) else {
            continue;
        };
        for _ in 0..500 {
            match waitpid(Some(raw), WaitOptions::NOHANG) {
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                _ if stat(pid).is_some() => std::thread::sleep(Duration::from_millis(2)),
                _ => break,
            }
        }
    }
}
