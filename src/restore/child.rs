//! A process under restore: remote-controlled, and gone without a trace unless
//! it is let go at the end.

use std::io;
use std::ops::Range;

use icecore_images::mm::MmState;
use icecore_parasite::SCRIPT_HEADER;
use rustix::io::Errno;

use super::blob::{self, Blob};
use crate::error::RestoreError;
use crate::kernel::clone3::CloneArgs;
use crate::kernel::{maps, vdso};
use crate::tracer::remote::{Pace, Remote, RemoteError, RemoteMemory, Returned, kill_and_reap};
use crate::tracer::{Outcome, Script, fault, peek};

const RSEQ_FLAG_UNREGISTER: u64 = 1;

/// A process under restore and its first thread.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its first thread.
    pub(crate) leader: Remote,
    /// What all its threads have in common.
    pub(crate) process: Process,
}

/// What the threads of a process under restore have in common.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its pid in the image, for messages.
    pub(crate) image_pid: u32,
    /// Its pid as this process sees it.
    pub(crate) pid: u32,
    /// Its memory.
    pub(crate) memory: RemoteMemory,
    blob: Option<Blob>,
    gate: u64,
    guard: Guard,
    /// A parent of ours that goes when this does; after `guard`.
    parent: Option<Box<Child>>,
}

/// Kills a process and waits until it is gone, unless it is disarmed.
#[derive(Debug)]
struct Guard {
    pid: u32,
    armed: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.armed {
            kill_and_reap(self.pid);
        }
    }
}

impl Child {
    /// A process that `leader` controls, with nothing of ours in it yet.
    pub(crate) fn new(image_pid: u32, leader: Remote) -> Result<Self, RestoreError> {
        let mut child = Self::at_gate(image_pid, leader, 0)?;
        child.process.gate = find_gate(image_pid, child.process.pid, &child.process.memory, None)?;
        Ok(child)
    }

    fn at_gate(image_pid: u32, leader: Remote, gate: u64) -> Result<Self, RestoreError> {
        let pid = leader.tid();
        // First, so that it goes whatever fails.
        let guard = Guard { pid, armed: true };
        let memory = RemoteMemory::open(pid).map_err(proc_error(image_pid, "memory"))?;
        let process = Process {
            image_pid,
            pid,
            memory,
            blob: None,
            gate,
            guard,
            parent: None,
        };
        Ok(Self { leader, process })
    }

    /// A process that `self` has just created, with the same memory, restorer
    /// included.
    pub(crate) fn descendant(&self, image_pid: u32, leader: Remote) -> Result<Self, RestoreError> {
        let mut child = Self::at_gate(image_pid, leader, self.process.gate)?;
        child.process.blob = self.process.blob;
        Ok(child)
    }

    /// Has the restorer of another process, whose memory this one shares.
    pub(crate) fn live_with(&mut self, blob: Option<Blob>, gate: u64) {
        self.process.blob = blob;
        self.process.gate = gate;
    }

    /// Sets what a signal does: SIG_DFL or SIG_IGN.
    pub(crate) fn set_action(&mut self, signal: u32, handler: u64) -> Result<(), RestoreError> {
        let what = format!("set the action of signal {signal}");
        let scratch = self.scratch();
        let mut action = [0; 32];
        action[..8].copy_from_slice(&handler.to_le_bytes());
        self.process.write(&what, scratch, &action)?;
        let args = [u64::from(signal), scratch, 0, 8];
        self.syscall(&what, libc::SYS_rt_sigaction, &args)?;
        Ok(())
    }

    /// Throws away what is pending of a signal: an action that ignores it does.
    pub(crate) fn forget_signal(&mut self, signal: u32) -> Result<(), RestoreError> {
        match signal as i32 {
            0 | libc::SIGKILL | libc::SIGSTOP => Ok(()),
            // The default; and an explicit one would have the kernel reap.
            libc::SIGCHLD => self.set_action(signal, libc::SIG_DFL as u64),
            _ => self.set_action(signal, libc::SIG_IGN as u64),
        }
    }

    /// Ends the process as the wait status `status` says, and waits until it is
    /// its parent's to reap. It leaves no core file.
    pub(crate) fn die(mut self, status: i32) -> Result<(), RestoreError> {
        let signal = (status & 0x7f) as u32;
        let failed = self.process.remote("end as it had ended");
        if signal == 0 {
            let code = ((status >> 8) & 0xff) as u64;
            let gate = self.process.gate;
            let ended = self.leader.end(gate, libc::SYS_exit_group, code);
            self.process.guard.armed = ended.is_err();
            return ended.map_err(failed);
        }
        let undumpable = [libc::PR_SET_DUMPABLE as u64, 0];
        self.syscall("dump no core", libc::SYS_prctl, &undumpable)?;
        if ![libc::SIGKILL, libc::SIGSTOP].contains(&(signal as i32)) {
            self.set_action(signal, libc::SIG_DFL as u64)?;
        }
        let ended = self.leader.end_by(signal);
        self.process.guard.armed = ended.is_err();
        ended.map_err(failed)
    }

    /// Has `parent` live until this process is let go or gone.
    pub(crate) fn keep(mut self, parent: Child) -> Self {
        self.process.parent = Some(Box::new(parent));
        self
    }

    /// Memory of icecore's that the process has a copy of and does not use, or
    /// the restorer's.
    pub(crate) fn scratch(&self) -> u64 {
        match self.process.blob {
            Some(blob) => blob.script(),
            None => (self.leader.stack() - 4096) & !63,
        }
    }

    /// Maps the restorer where it can stay until `then` is in place, with room
    /// for scripts of `script_len` bytes. No area is ever writable and
    /// executable.
    pub(crate) fn move_in(
        &mut self,
        then: &MmState,
        script_len: usize,
    ) -> Result<(), RestoreError> {
        let (image_pid, pid) = (self.process.image_pid, self.process.pid);
        let now = read_maps(image_pid, pid)?;
        let blob = Blob::place(&now, then, script_len).ok_or(RestoreError::NoRoom {
            pid: image_pid,
            len: script_len as u64,
        })?;
        let (code, whole) = (blob.code_page(), blob.range());
        let fixed = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let writable = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let executable = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        let len = whole.end - whole.start;
        let mmap = [whole.start, len, writable, fixed as u64, u64::MAX, 0];
        self.syscall("map the restorer", libc::SYS_mmap, &mmap)?;
        let process = &mut self.process;
        process.write("write the restorer", code.start, &Blob::code())?;
        process.blob = Some(blob);
        let mprotect = [code.start, code.end - code.start, executable];
        self.syscall("protect the restorer", libc::SYS_mprotect, &mprotect)?;
        self.process.gate = blob.gate().unwrap_or(self.process.gate);
        Ok(())
    }

    /// Unmaps everything but the restorer and the vDSO.
    pub(crate) fn unmap_all(&mut self) -> Result<(), RestoreError> {
        self.unmap_all_but(std::iter::empty())
    }

    /// Unmaps everything but the restorer, the vDSO and `kept`.
    pub(crate) fn unmap_all_but(
        &mut self,
        kept: impl Iterator<Item = Range<u64>>,
    ) -> Result<(), RestoreError> {
        let rseq = peek::rseq(self.process.pid);
        if let Some(rseq) = rseq.map_err(proc_error(self.process.image_pid, "rseq"))? {
            let (len, signature) = (u64::from(rseq.len), u64::from(rseq.signature));
            let unregister = [rseq.address, len, RSEQ_FLAG_UNREGISTER, signature];
            self.syscall("unregister rseq", libc::SYS_rseq, &unregister)?;
        }
        let areas = read_maps(self.process.image_pid, self.process.pid)?;
        let own = vdso::areas(&areas).into_iter().map(|a| a.start..a.end);
        let own = own.chain([self.process.blob()?.range()]);
        let kept = own.chain(kept).collect();
        let mut script = Script::new();
        for range in blob::all_but(kept) {
            let args = [range.start, range.end - range.start];
            script.call("unmap icecore's memory", libc::SYS_munmap as u32, args);
        }
        self.run("leave icecore's memory", &script, Pace::Fast)?;
        Ok(())
    }

    /// What is left to be done is done without the restorer, through another
    /// `syscall` instruction.
    pub(crate) fn leave(&mut self) -> Result<Blob, RestoreError> {
        let process = &mut self.process;
        let blob = process.blob()?;
        process.gate = find_gate(process.image_pid, process.pid, &process.memory, Some(blob))?;
        process.blob = None;
        Ok(blob)
    }

    /// Leaves the restorer and unmaps it.
    pub(crate) fn move_out(&mut self) -> Result<(), RestoreError> {
        let blob = self.leave()?;
        let range = blob.range();
        let munmap = [range.start, range.end - range.start];
        self.syscall("unmap the restorer", libc::SYS_munmap, &munmap)?;
        Ok(())
    }

    /// Lets the process create another by clone3(2), which is taken over at
    /// once. `args.set_tid` is ignored; `set_tid` is the pid it gets. The
    /// arguments lie at `scratch`.
    pub(crate) fn create(
        &mut self,
        what: &str,
        scratch: u64,
        set_tid: Option<u32>,
        mut args: CloneArgs,
    ) -> Result<Remote, RestoreError> {
        let set_tid_at = scratch + size_of::<CloneArgs>() as u64;
        args.set_tid = if set_tid.is_some() { set_tid_at } else { 0 };
        args.set_tid_size = u64::from(set_tid.is_some());
        let tid = set_tid.unwrap_or(0);
        self.process.write(what, scratch, &args.to_bytes())?;
        self.process.write(what, set_tid_at, &tid.to_le_bytes())?;
        let clone3 = [scratch, size_of::<CloneArgs>() as u64];
        let returned = self.try_syscall(what, libc::SYS_clone3, &clone3)?;
        returned.result().map_err(self.process.step(what))?;
        let created = returned.created.unwrap_or(returned.value as u32);
        Remote::adopt(created).map_err(self.process.remote(what))
    }

    /// Makes one system call that must succeed.
    pub(crate) fn syscall(
        &mut self,
        what: &str,
        nr: libc::c_long,
        args: &[u64],
    ) -> Result<u64, RestoreError> {
        let returned = self.try_syscall(what, nr, args)?;
        returned.result().map_err(self.process.step(what))
    }

    /// Makes one system call.
    pub(crate) fn try_syscall(
        &mut self,
        what: &str,
        nr: libc::c_long,
        args: &[u64],
    ) -> Result<Returned, RestoreError> {
        self.process.fault(what)?;
        let returned = self.leader.syscall(self.process.gate, nr as u32, args);
        returned.map_err(self.process.remote(what))
    }

    /// Runs a script in the first thread.
    pub(crate) fn run(
        &mut self,
        stage: &'static str,
        script: &Script,
        pace: Pace,
    ) -> Result<Outcome, RestoreError> {
        let tid = self.process.image_pid;
        self.process
            .run_in(&mut self.leader, tid, stage, script, pace)
    }

    /// The process is on its own from here on; its first thread goes, or, if
    /// it `exits_with` a signal mask, ends alone.
    pub(crate) fn release(mut self, exits_with: Option<u64>) -> Result<(), RemoteError> {
        self.process.guard.armed = false;
        match exits_with {
            Some(mask) => self.leader.exit(self.process.gate, mask),
            None => self.leader.detach(),
        }
    }
}

impl Process {
    /// Where the restorer lies.
    pub(crate) fn blob(&self) -> Result<Blob, RestoreError> {
        let none = self.step("use the restorer, which is not there");
        self.blob.ok_or(Errno::NOEXEC).map_err(none)
    }

    /// Address of a `syscall` instruction.
    pub(crate) fn gate(&self) -> u64 {
        self.gate
    }

    /// Runs a script in `thread`, whose id in the image is `tid`.
    pub(crate) fn run_in(
        &self,
        thread: &mut Remote,
        tid: u32,
        stage: &'static str,
        script: &Script,
        pace: Pace,
    ) -> Result<Outcome, RestoreError> {
        self.fault(stage)?;
        let blob = self.blob()?;
        let failed = |source| self.remote(stage)(source);
        // The result of the last call is not written back at the careful pace.
        let mut script = script.clone();
        script.try_call("end of script", libc::SYS_getpid as u32, [0_u64; 0]);
        let at = blob.script() + SCRIPT_HEADER as u64;
        let mut bytes = vec![0; SCRIPT_HEADER];
        bytes[..8].copy_from_slice(&(script.call_count() as u64).to_le_bytes());
        bytes.extend(script.load(at));
        self.memory.write(blob.script(), &bytes).map_err(failed)?;
        let run = thread.run(blob.entry(), blob.script(), script.call_count(), pace);
        run.map_err(failed)?;
        let after = self.memory.read(at, script.loaded_len()).map_err(failed)?;
        let outcome = script.outcome(after);
        outcome.map_err(|source| RestoreError::Script {
            pid: self.image_pid,
            tid,
            stage,
            source,
        })
    }

    /// Writes into the process's memory, whatever the protection there.
    pub(crate) fn write(&self, what: &str, at: u64, bytes: &[u8]) -> Result<(), RestoreError> {
        self.memory.write(at, bytes).map_err(self.remote(what))
    }

    /// Where a test lets a step fail.
    pub(crate) fn fault(&self, what: &str) -> Result<(), RestoreError> {
        match fault::fails(fault::Kind::Restore) {
            true => Err(self.step(what)(Errno::IO)),
            false => Ok(()),
        }
    }

    /// An error of remote control.
    pub(crate) fn remote(&self, what: &str) -> impl FnOnce(RemoteError) -> RestoreError + use<> {
        let (pid, what) = (self.image_pid, what.to_owned());
        move |source| RestoreError::Remote { pid, what, source }
    }

    /// An error of a single system call.
    pub(crate) fn step(&self, what: &str) -> impl FnOnce(Errno) -> RestoreError + use<> {
        let (pid, what) = (self.image_pid, what.to_owned());
        move |source| RestoreError::Step { pid, what, source }
    }
}

/// A `syscall` instruction outside of the restorer: the vDSO's, or any other in
/// executable memory.
fn find_gate(
    image_pid: u32,
    pid: u32,
    memory: &RemoteMemory,
    without: Option<Blob>,
) -> Result<u64, RestoreError> {
    let mut areas = read_maps(image_pid, pid)?;
    areas.retain(|a| a.prot & libc::PROT_EXEC as u32 != 0 && a.start < 1 << 63);
    areas.retain(|a| without.is_none_or(|blob| !blob.range().contains(&a.start)));
    areas.sort_by_key(|a| a.name != b"[vdso]");
    for area in areas {
        let Ok(code) = memory.read(area.start, area.len() as usize) else {
            continue; // a mapped file that is shorter than its mapping
        };
        if let Some(at) = blob::find_gate(&code) {
            return Ok(area.start + at);
        }
    }
    Err(RestoreError::Step {
        pid: image_pid,
        what: "find a system call instruction".to_owned(),
        source: Errno::NOEXEC,
    })
}

fn read_maps(image_pid: u32, pid: u32) -> Result<Vec<maps::Area>, RestoreError> {
    maps::read_maps(pid).map_err(proc_error(image_pid, "maps"))
}

fn proc_error(pid: u32, what: &'static str) -> impl FnOnce(io::Error) -> RestoreError {
    move |source| RestoreError::Proc { pid, what, source }
}
