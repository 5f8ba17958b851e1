//! A process that is put to sleep and woken up.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};

use super::icecore::{Finished, Icecore};
use super::{tree, wait};

const MUCH: &str = "
import ctypes, mmap, os, select, signal, sys, tempfile, threading, time
r, w = os.pipe()
os.write(w, b'queued')
gone = tempfile.TemporaryFile()
gone.write(b'x' * 9000)
gone.flush()
memfd = os.memfd_create('buffer')
os.write(memfd, b'y' * 5000)
private = mmap.mmap(memfd, 4096, flags=mmap.MAP_PRIVATE)
private[:1] = b'z'
shared = mmap.mmap(-1, 65536)
shared[:6] = b'shared'
epoll = select.epoll()
epoll.register(r, select.EPOLLIN)
libc = ctypes.CDLL(None)
libc.eventfd(3, 0)
libc.timerfd_create(1, 0)
watcher = libc.inotify_init()
libc.inotify_add_watch(watcher, b'/etc', 2)
signal.setitimer(signal.ITIMER_REAL, 1000, 5)
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
os.kill(os.getpid(), signal.SIGUSR2)
for _ in range(3):
    threading.Thread(target=time.sleep, args=(1000,)).start()
open(sys.argv[1], 'w').close()
time.sleep(1000)
";

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
        let target = Self::alone("sleep 1000")?;
        let name = format!("/proc/{}/comm", target.pid());
        wait::until("sleep to run", wait::LIMIT, || {
            let comm = fs::read_to_string(&name).map_err(|e| e.to_string())?;
            Ok((comm == "sleep\n").then_some(()))
        })?;
        Ok(target)
    }

    /// A process with something of many kinds: threads, timers, a queued
    /// signal, pipe, deleted file, memfd, epoll, eventfd, shared memory.
    pub(crate) fn with_much_in_it(scratch: &Path) -> Result<Self, String> {
        let (script, ready) = (scratch.join("much.py"), scratch.join("ready"));
        fs::write(&script, MUCH).map_err(|e| e.to_string())?;
        let command = format!("python3 {} {}", script.display(), ready.display());
        let mut target = Self::alone(&command)?;
        wait::until("the program to be ready", wait::LIMIT, || {
            target.alive()?;
            Ok(ready.exists().then_some(()))
        })?;
        Ok(target)
    }

    /// `command` in a session of its own, with standard descriptors only.
    fn alone(command: &str) -> Result<Self, String> {
        let script = format!(
            "for fd in /proc/$$/fd/*; do fd=${{fd##*/}}; \
             [ $fd -gt 2 ] && eval \"exec $fd>&-\"; done; exec setsid {command}"
        );
        let mut shell = Command::new("/bin/bash");
        shell.args(["-c", &script]).current_dir("/");
        shell.stdin(Stdio::null());
        shell.stdout(Stdio::null()).stderr(Stdio::null());
        Self::spawn(&mut shell)
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
    /// So is everything below it.
    pub(crate) fn dump(&mut self, images: &Path, args: &[&str]) -> Result<Finished, String> {
        let below = tree::below(self.pid());
        let done = self.dump_command(images).args(args).succeed()?;
        let status = self.wait().map_err(|e| done.describe(&e))?;
        if status.signal() != Some(libc::SIGKILL) {
            return Err(done.describe(&format!("target ended otherwise than killed: {status}")));
        }
        // Some may be reaped by others of them, some by this process.
        tree::reap(&below).map_err(|e| done.describe(&e))?;
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
        self.restored().map_err(|e| done.describe(&e))?;
        Ok(done)
    }

    /// It was restored by other means: an error unless it is alive again.
    pub(crate) fn restored(&mut self) -> Result<(), String> {
        self.ended = None;
        self.alive()
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
        if let Ok(None) = self.poll() {
            let below = tree::below(self.pid());
            if kill_process(self.pid, Signal::KILL).is_ok() {
                let _ = self.wait();
            }
            tree::end(&below);
        }
    }
}
