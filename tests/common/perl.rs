//! Perl programs that are restored, and how they look from outside.

use std::fs;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::target::Target;
use super::wait;

/// A perl program in a session of its own.
pub(crate) fn perl(program: &str) -> Result<Target, String> {
    let mut command = Command::new("setsid");
    command.args(["perl", "-e", program]).current_dir("/");
    command.stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let target = Target::spawn(&mut command)?;
    settled(target.pid())?;
    Ok(target)
}

/// Waits until the process sleeps in perl.
pub(crate) fn settled(pid: u32) -> Result<(), String> {
    wait::until("perl to sleep", wait::LIMIT, || {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).map_err(|e| e.to_string())?;
        Ok((comm == "perl\n" && state(pid)? == 'S').then_some(()))
    })
}

/// Fields of `stat` from the third on.
fn stat_fields(pid: u32) -> Result<Vec<String>, String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    let stat = stat.map_err(|e| format!("stat of {pid}: {e}"))?;
    let (_, rest) = stat.rsplit_once(')').ok_or("stat")?;
    Ok(rest.split_whitespace().map(str::to_owned).collect())
}

/// Its state, as `ps` shows it.
pub(crate) fn state(pid: u32) -> Result<char, String> {
    let fields = stat_fields(pid)?;
    fields[0].chars().next().ok_or_else(|| "state".to_owned())
}

/// Its parent's pid.
pub(crate) fn parent(pid: u32) -> Result<u32, String> {
    stat_fields(pid)?[1].parse().map_err(|e| format!("{e}"))
}

/// The line of `status` that begins with `key`.
pub(crate) fn status_line(pid: u32, key: &str) -> Result<String, String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| e.to_string())?;
    let line = status.lines().find(|l| l.starts_with(key));
    line.map(str::to_owned).ok_or_else(|| format!("no {key}"))
}

/// Whether there is such a process.
pub(crate) fn exists(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap_or(true)
}

/// Kills a process and reaps it if it is a child of ours.
pub(crate) fn end(pid: u32) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
}

/// Sleeps for ever.
pub(crate) const SLEEP: &str = "sleep 1000 while 1";
