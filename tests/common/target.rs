//! A process that is put to sleep and woken up.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};

use super::icecore::{Finished, Icecore};
use super::wait;

/// A process started by a test: first as its child, later, after a restore,
/// adopted by it. Dropping it kills and reaps it, and only it.
#[derive(Debug)]
pub(crate) struct Target {
    pid: Pid,
    /// The last exit status, once it has ended and been reaped.
    ended: Option<ExitStatus>,
}

impl Target {
    /// Starts `command`. Whatever icecore restores and leaves behind becomes
    /// a child of this process, so that it can be waited for and reaped: a
    /// container's pid 1 may not do it.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self, String> {
        let this = rustix::process::getpid();
        set_child_subreaper(Some(this)).map_err(|e| format!("become a subreaper: {e}"))?;
        // What the test runner's own caller left open is no part of a target.
        let kept = icecore::kernel::inherited::keep_from_children();
        kept.map_err(|e| format!("keep descriptors from children: {e}"))?;
        let child = command
            .spawn()
            .map_err(|e| format!("start {command:?}: {e}"))?;
        let raw = i32::try_from(child.id()).map_err(|e| e.to_string())?;
        let pid = Pid::from_raw(raw).ok_or("pid 0")?;
        Ok(Self { pid, ended: None })
    }

    /// A process that sleeps in a session of its own, with standard
    /// descriptors only: whoever runs the tests may have left others open.
    pub(crate) fn sleeper() -> Result<Self, String> {
        let script = "for fd in /proc/$$/fd/*; do fd=${fd##*/}; \
            [ $fd -gt 2 ] && eval \"exec $fd>&-\"; done; exec setsid sleep 1000";
        let mut command = Command::new("/bin/bash");
        command.args(["-c", script]).current_dir("/").env_clear();
        command.stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let target = Self::spawn(&mut command)?;
        let name = format!("/proc/{}/comm", target.pid());
        wait::until("sleep to run", wait::LIMIT, || {
            let comm = fs::read_to_string(&name).map_err(|e| e.to_string())?;
            Ok((comm == "sleep\n").then_some(()))
        })?;
        Ok(target)
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    /// Whether it has ended; reaps it.
    pub(crate) fn poll(&mut self) -> Result<Option<ExitStatus>, String> {
        if self.ended.is_none() {
            let waited = waitpid(Some(self.pid), WaitOptions::NOHANG);
            let status = waited.map_err(|e| format!("wait for pid {}: {e}", self.pid()))?;
            self.ended = status.map(|(_, status)| ExitStatus::from_raw(status.as_raw()));
        }
        Ok(self.ended)
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus, String> {
        let what = format!("pid {} to end", self.pid());
        wait::until(&what, wait::LIMIT, || self.poll())
    }

    /// After a restore that failed: an error unless nothing of the target is
    /// left. What was killed on its own (`-d`) has become this process' to
    /// reap, as it would become init's.
    pub(crate) fn reap_killed(&mut self) -> Result<(), String> {
        if let Ok(Some((_, status))) = waitpid(Some(self.pid), WaitOptions::NOHANG)
            && status.terminating_signal() != Some(libc::SIGKILL)
        {
            return Err(format!("what was restored has ended: {status:?}"));
        }
        match fs::symlink_metadata(format!("/proc/{}", self.pid())) {
            Ok(_) => Err(format!("pid {} is left behind", self.pid())),
            Err(_) => Ok(()),
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), String> {
        kill_process(self.pid, signal).map_err(|e| format!("signal pid {}: {e}", self.pid()))
    }

    /// Dumps it into `images` and reaps it: it is gone afterwards.
    pub(crate) fn dump(&mut self, images: &Path, args: &[&str]) -> Result<Finished, String> {
        let done = self.dump_command(images).args(args).succeed()?;
        let status = self.wait().map_err(|e| done.describe(&e))?;
        if status.signal() != Some(libc::SIGKILL) {
            return Err(done.describe(&format!("target ended otherwise than killed: {status}")));
        }
        match fs::symlink_metadata(format!("/proc/{}", self.pid())) {
            Ok(_) => Err(done.describe("target is still there")),
            Err(_) => Ok(done),
        }
    }

    /// Dumps it with `-R`: it goes on.
    pub(crate) fn dump_running(
        &mut self,
        images: &Path,
        args: &[&str],
    ) -> Result<Finished, String> {
        let done = self.dump_command(images).arg("-R").args(args).succeed()?;
        self.alive()?;
        Ok(done)
    }

    /// `icecore dump -t PID -D images`, to be completed.
    pub(crate) fn dump_command(&self, images: &Path) -> Icecore {
        let scratch = images.parent().unwrap_or(images);
        let pid = self.pid().to_string();
        Icecore::new(scratch, "dump")
            .args(["-t", &pid])
            .arg("-D")
            .arg(images)
    }

    /// Restores it from `images`, detached; it is adopted by this process.
    pub(crate) fn restore(&mut self, images: &Path, args: &[&str]) -> Result<Finished, String> {
        let scratch = images.parent().unwrap_or(images);
        let command = Icecore::new(scratch, "restore")
            .arg("-d")
            .arg("-D")
            .arg(images);
        let done = command.args(args).succeed()?;
        self.ended = None;
        self.alive().map_err(|e| done.describe(&e))?;
        Ok(done)
    }

    /// An error unless it is alive and not traced.
    pub(crate) fn alive(&mut self) -> Result<(), String> {
        if let Some(status) = self.poll()? {
            return Err(format!("pid {} has ended: {status}", self.pid()));
        }
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.map_err(|e| format!("read status of pid {}: {e}", self.pid()))?;
        match status.lines().find(|l| l.starts_with("TracerPid:")) {
            Some(line) if line.ends_with("\t0") => Ok(()),
            other => Err(format!("pid {} is still traced: {other:?}", self.pid())),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Only a child of ours is ended: after a restore that failed the number
        // may belong to anyone.
        if let Ok(None) = self.poll()
            && kill_process(self.pid, Signal::KILL).is_ok()
        {
            let _ = self.wait();
        }
    }
}
