//! Relatives: processes made by a victim that check themselves when asked.

use std::fs::File;
use std::io::{Read, Write};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::sys::call;

/// What a relative does when asked.
pub(super) type Job = Box<dyn FnMut() -> Result<(), String>>;

/// A process made by this one or by another of the family, and the line to it.
pub(super) struct Relative {
    pub(super) pid: u32,
    ask: File,
    answer: File,
    maker: u32,
}

/// Makes a child. It runs `set_up`, and what that gives whenever it is asked.
pub(super) fn child(set_up: impl FnOnce() -> Result<Job, String>) -> Result<Relative, String> {
    child_with(0, set_up)
}

/// Makes a child that shares with this process what `flags` (CLONE_*, no
/// CLONE_VM) say.
pub(super) fn child_with(
    flags: i32,
    set_up: impl FnOnce() -> Result<Job, String>,
) -> Result<Relative, String> {
    let (asked, ask) = pipe()?;
    let (answer, mut tell) = pipe()?;
    let pid = clone(flags)?;
    if pid == 0 {
        // With a table of both, closing would close the maker's too.
        if flags & libc::CLONE_FILES == 0 {
            drop((ask, answer));
        } else {
            std::mem::forget((ask, answer));
        }
        let ended = serve(set_up, asked, &mut tell);
        end(i32::from(ended.is_err()));
    }
    if flags & libc::CLONE_FILES == 0 {
        drop((asked, tell));
    } else {
        std::mem::forget((asked, tell));
    }
    let mut relative = Relative {
        pid,
        ask,
        answer,
        maker: std::process::id(),
    };
    relative.hear()?;
    Ok(relative)
}

fn serve(
    set_up: impl FnOnce() -> Result<Job, String>,
    mut asked: File,
    tell: &mut File,
) -> Result<(), String> {
    let say = |result: Result<(), String>, tell: &mut File| {
        if let Err(e) = &result {
            eprintln!("relative {}: {e}", std::process::id());
        }
        let byte = [u8::from(result.is_ok())];
        tell.write_all(&byte).map_err(|e| e.to_string())
    };
    let mut job = match set_up() {
        Ok(job) => job,
        Err(e) => return say(Err(e), tell),
    };
    say(Ok(()), tell)?;
    let mut byte = [0];
    while asked.read(&mut byte).map_err(|e| e.to_string())? == 1 {
        say(job(), tell)?;
    }
    Ok(())
}

/// Forks; 0 in the child.
pub(super) fn clone(flags: i32) -> Result<u32, String> {
    if flags == 0 {
        // The C library's, which has its own state put right in the child.
        // SAFETY: victims have one thread here.
        return match unsafe { libc::fork() } {
            -1 => Err(format!("fork: {}", std::io::Error::last_os_error())),
            pid => Ok(pid as u32),
        };
    }
    let flags = (flags | libc::SIGCHLD) as u64;
    call("clone", libc::SYS_clone, &[flags, 0, 0, 0, 0]).map(|pid| pid as u32)
}

/// Ends this process at once.
pub(super) fn end(code: i32) -> ! {
    // SAFETY: runs nothing more of this process.
    unsafe { libc::_exit(code) }
}

/// Waits for ever.
pub(super) fn sleep() -> ! {
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1000));
    }
}

/// A pipe, without O_CLOEXEC.
pub(super) fn pipe() -> Result<(File, File), String> {
    let (read, write) = rustix::pipe::pipe().map_err(|e| e.to_string())?;
    Ok((read.into(), write.into()))
}

/// Waits for a child's end; its raw status.
pub(super) fn wait_for(pid: u32) -> Result<i32, String> {
    let raw = Pid::from_raw(pid.cast_signed()).ok_or("pid 0")?;
    let waited = waitpid(Some(raw), WaitOptions::empty()).map_err(|e| e.to_string())?;
    waited
        .map(|(_, status)| status.as_raw())
        .ok_or("no status".to_owned())
}

/// Sends a signal.
pub(super) fn signal(pid: u32, signal: Signal) -> Result<(), String> {
    let raw = Pid::from_raw(pid.cast_signed()).ok_or("pid 0")?;
    kill_process(raw, signal).map_err(|e| format!("signal {pid}: {e}"))
}

impl Relative {
    /// Lets it check itself.
    pub(super) fn check(&mut self) -> Result<(), String> {
        self.ask
            .write_all(&[1])
            .map_err(|e| format!("ask {}: {e}", self.pid))?;
        self.hear()
    }

    fn hear(&mut self) -> Result<(), String> {
        let mut byte = [0];
        let read = self.answer.read_exact(&mut byte);
        read.map_err(|e| format!("answer of {}: {e}", self.pid))?;
        match byte {
            [1] => Ok(()),
            _ => Err(format!("relative {} is not well", self.pid)),
        }
    }
}

impl Drop for Relative {
    fn drop(&mut self) {
        if self.maker == std::process::id() {
            let _ = signal(self.pid, Signal::KILL);
            let _ = wait_for(self.pid);
        }
    }
}
