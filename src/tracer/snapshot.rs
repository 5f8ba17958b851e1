//! A copy of a frozen task's memory: the task forks inside a script, and the
//! copy, which never runs, is kept until its memory has been read, while the
//! task itself goes on.
//!
//! The copy is made so that nobody notices it: no signal is sent when it ends,
//! no wait without __WALL finds it, and it gives up the descriptors it shares
//! with the task without touching a file. If icecore dies before it holds the
//! copy, the copy ends by itself (the script has nowhere else to lead it);
//! afterwards the kernel ends it (PTRACE_O_EXITKILL). What remains of it then is
//! an entry in the process table until the next dump, or until the task waits for
//! it or ends.

use std::io;
use std::time::Duration;

use icecore_images::thread::Registers;
use icecore_parasite::{STUB_MAGIC, stub_layout};

use super::forest::{Frozen, Zombie};
use super::freeze::{FreezeError, FrozenTask};
use super::inject::InjectError;
use super::memory::Memory;
use super::ptrace::{Gone, Resume, Running, Stop, Stopped, TraceError};
use super::remote::kill_and_reap;
use super::script::Script;
use super::stub::StubPlace;
use crate::kernel::stat::Stat;
use crate::kernel::status::Status;

/// A copy of a task, standing still. Dropped, it ends; what is left of it in the
/// task's table of children is taken away by [`reap`].
#[derive(Debug)]
pub struct Snapshot {
    /// Its process id.
    pub pid: u32,
    /// The task it was made of.
    pub of: u32,
    /// Its process id as the task knows it.
    inner_pid: u64,
    /// A system call instruction in it.
    gate: u64,
    stopped: Option<Stopped>,
}

/// A copy that has ended, for which its task has yet to be made to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remains {
    of: u32,
    inner_pid: u64,
}

/// Why there is no copy. The task is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The task could not fork: EAGAIN where RLIMIT_NPROC or pids.max forbid
    /// it, ENOMEM for memory.
    #[error(transparent)]
    Inject(#[from] InjectError),
    /// The copy could not be made harmless.
    #[error("{what}")]
    Tame {
        /// What failed.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl From<TraceError> for SnapshotError {
    fn from(e: TraceError) -> Self {
        SnapshotError::Inject(e.into())
    }
}

impl FrozenTask {
    /// Has the task make a copy of itself.
    pub fn fork(&mut self) -> Result<Snapshot, SnapshotError> {
        let flags = (libc::CLONE_FILES | libc::CLONE_FS) as u64;
        let mut script = Script::new();
        let call = script.fork("make a copy of itself", flags);
        let outcome = self.run(0, &script);
        let born = self.born.take();
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(e) => {
                // Should there be a copy, it ends here.
                drop(born);
                return Err(e.into());
            }
        };
        let tid = self.a_tid();
        let mut snapshot = born.ok_or(TraceError::from(Gone { tid }))?;
        snapshot.of = self.pid;
        snapshot.inner_pid = outcome.result(call).unwrap_or(0);
        let tamed = snapshot.tame().and_then(|()| self.wipe_copy(&snapshot));
        match tamed {
            Ok(()) => Ok(snapshot),
            Err(e) => {
                let remains = snapshot.end();
                self.wait_for(remains)?;
                Err(e)
            }
        }
    }

    /// Takes the stub out of the copy: its page may be one of the program's.
    fn wipe_copy(&mut self, copy: &Snapshot) -> Result<(), SnapshotError> {
        let pid = self.pid;
        let place = self
            .stub_place()
            .map_err(|source| InjectError::NoPlace { pid, source })?;
        let zeros = vec![0; stub_layout().len as usize];
        Memory::open(copy.pid)
            .and_then(|memory| memory.force_write(place.address, &zeros))
            .map_err(|source| SnapshotError::Tame {
                what: "take the stub out of the copy",
                source,
            })
    }

    /// Has the task wait for a copy that has ended.
    pub fn wait_for(&mut self, remains: Remains) -> Result<(), InjectError> {
        let mut script = Script::new();
        let options = (libc::__WALL | libc::WNOHANG) as u64;
        script.try_call(
            "wait for its copy",
            libc::SYS_wait4 as u32,
            [remains.inner_pid, 0, options, 0],
        );
        self.run(0, &script).map(drop)
    }
}

impl Snapshot {
    /// Takes hold of a copy that has just been made, in a stub at `place`: from
    /// here on it ends with icecore, and what it leaves then is recognised by its
    /// name. The task that made it still stands.
    pub(super) fn adopt(pid: u32, place: StubPlace) -> Result<Self, TraceError> {
        const SYSCALL_LEN: u64 = 2;
        let (stopped, stop) = Running::assume(pid).wait()?;
        if !matches!(stop, Stop::Event { .. }) {
            return Err(TraceError::Unexpected { tid: pid, stop });
        }
        stopped.set_options(libc::PTRACE_O_EXITKILL as u32)?;
        let mut snapshot = Self {
            pid,
            of: 0,
            inner_pid: 0,
            gate: place.address + stub_layout().blocked - SYSCALL_LEN,
            stopped: Some(stopped),
        };
        let set_name = libc::PR_SET_NAME as u64;
        // The stub begins with its name.
        snapshot.call([libc::SYS_prctl as u64, set_name, place.address, 0])?;
        Ok(snapshot)
    }

    /// Sees to it that the copy is the first to go where memory is short, and
    /// lets go of the descriptors it shares with its task.
    fn tame(&mut self) -> Result<(), SnapshotError> {
        let path = format!("/proc/{}/oom_score_adj", self.pid);
        std::fs::write(path, "1000").map_err(|source| SnapshotError::Tame {
            what: "make the kernel end the copy first where memory is short",
            source,
        })?;
        let unshare = u64::from(libc::CLOSE_RANGE_UNSHARE);
        let call = [
            libc::SYS_close_range as u64,
            0,
            u64::from(u32::MAX),
            unshare,
        ];
        let ret = self.call(call)? as i64;
        if ret < 0 {
            return Err(SnapshotError::Tame {
                what: "close the copy's descriptors",
                source: io::Error::from_raw_os_error(-ret as i32),
            });
        }
        Ok(())
    }

    /// Has the copy make one system call: number and three arguments.
    fn call(&mut self, [nr, rdi, rsi, rdx]: [u64; 4]) -> Result<u64, TraceError> {
        const NO_CALL: u64 = u64::MAX;
        let tid = self.pid;
        let stopped = self.stopped.as_mut().ok_or(Gone { tid })?;
        let registers = Registers {
            rax: nr,
            orig_rax: NO_CALL,
            rdi,
            rsi,
            rdx,
            rip: self.gate,
            ..stopped.registers()?
        };
        stopped.set_registers(&registers)?;
        for _entry_and_exit in 0..2 {
            match stopped.resume_to_stop(Resume::Syscall(0))? {
                Stop::Syscall => {}
                stop => return Err(TraceError::Unexpected { tid, stop }),
            }
        }
        Ok(stopped.registers()?.rax)
    }

    /// Ends it.
    pub fn end(self) -> Remains {
        Remains {
            of: self.of,
            inner_pid: self.inner_pid,
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.stopped = None;
        kill_and_reap(self.pid);
    }
}

/// Freezes the forest of `root` for a moment and has its tasks wait for copies
/// of theirs that have ended. (All of it, as tasks that share their memory share
/// the place of the stub.) How long it took.
pub fn reap(root: u32, remains: &[Remains], limit: Duration) -> Result<Duration, ReapError> {
    let mut frozen = Frozen::freeze(root, limit)?;
    for remains in remains {
        // One that has ended has no children any more.
        if let Some(task) = frozen.tasks.iter_mut().find(|t| t.pid == remains.of) {
            task.wait_for(*remains)?;
        }
    }
    let since = frozen.since;
    frozen.resume()?;
    Ok(since.elapsed())
}

impl Frozen {
    /// Takes copies that an icecore which was killed has left behind out of the
    /// zombies.
    pub(super) fn find_remains(&mut self) {
        let is_copy = |zombie: &mut Zombie| {
            let stat = Stat::read(zombie.pid);
            stat.is_ok_and(|s| {
                s.exit_signal == 0 && STUB_MAGIC.strip_suffix(b"\0\0") == Some(&s.comm)
            })
        };
        for zombie in self.zombies.extract_if(.., is_copy) {
            let inner = Status::read(zombie.pid).ok();
            let inner = inner.and_then(|status| status.ns_tgids.last().copied());
            self.remains.push(Remains {
                of: zombie.parent,
                inner_pid: inner.unwrap_or(zombie.pid).into(),
            });
        }
    }

    /// Has its tasks wait for what was found.
    pub fn wait_for_remains(&mut self) -> Result<(), InjectError> {
        for remains in std::mem::take(&mut self.remains) {
            if let Some(task) = self.tasks.iter_mut().find(|t| t.pid == remains.of) {
                task.wait_for(remains)?;
                task.put_stub_away();
            }
        }
        Ok(())
    }
}

/// A task could not be made to wait for its copy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ReapError {
    #[error(transparent)]
    Freeze(#[from] FreezeError),
    #[error(transparent)]
    Inject(#[from] InjectError),
    #[error(transparent)]
    Trace(#[from] TraceError),
}
