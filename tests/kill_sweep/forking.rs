//! A victim that forks short-lived children as fast as it can, in every way
//! there is, from two threads, and holds each to its word: reaped once, by its
//! parent, with its own status. It has a handler for every signal, which nobody
//! sends.

use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};

/// The first signal that came, though nobody had sent it.
static STRAY: AtomicI32 = AtomicI32::new(0);
/// One round's children of each kind.
const CHILDREN: i32 = 4;

/// One round.
pub(crate) fn act() -> Result<(), String> {
    static HANDLERS: Once = Once::new();
    let mut watched = Ok(());
    HANDLERS.call_once(|| watched = watch());
    watched?;
    let other = std::thread::spawn(children);
    let mine = children();
    other
        .join()
        .map_err(|_| "a thread was lost".to_owned())
        .and_then(|other| mine.and(other))?;
    no_stray()
}

/// No signal has come that nobody sent.
pub(crate) fn no_stray() -> Result<(), String> {
    match STRAY.load(Ordering::Relaxed) {
        0 => Ok(()),
        signal => Err(format!("signal {signal} came, though nobody sent it")),
    }
}

fn children() -> Result<(), String> {
    for code in 1..=CHILDREN {
        reaped(fork(libc::SIGCHLD, code, false)?, code)?;
        reaped(fork(libc::SIGCHLD | libc::CLONE_VFORK, code, false)?, code)?;
        reaped(fork(libc::SIGCHLD, code, true)?, code)?;
        // posix_spawn, which is CLONE_VFORK | CLONE_VM and execve.
        let exit = format!("exit {code}");
        let spawned = Command::new("/bin/sh").args(["-c", &exit]).status();
        let status = spawned.map_err(|e| format!("posix_spawn: {e}"))?;
        if status.code() != Some(code) {
            return Err(format!("a child said {code}, its parent heard {status}"));
        }
    }
    Ok(())
}

/// A child that ends with `code`; with `deep` only once a child of its own has.
fn fork(flags: i32, code: i32, deep: bool) -> Result<i32, String> {
    // SAFETY: without CLONE_VM this is a fork; the child makes system calls only.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } as i32;
    match child {
        -1 => return Err(format!("fork: {}", std::io::Error::last_os_error())),
        0 => {}
        child => return Ok(child),
    }
    let code = match deep.then(|| fork(libc::SIGCHLD, code, false)) {
        None => code,
        Some(Ok(grandchild)) => match wait(grandchild) {
            Ok(status) if libc::WIFEXITED(status) => libc::WEXITSTATUS(status),
            _ => 99,
        },
        Some(Err(_)) => 98,
    };
    // SAFETY: ends the child.
    unsafe { libc::_exit(code) }
}

fn wait(pid: i32) -> Result<i32, std::io::Error> {
    let mut status = 0;
    // SAFETY: the status is live.
    match unsafe { libc::waitpid(pid, &raw mut status, 0) } {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(status),
    }
}

/// `pid` ends with `code`; waiting for it is never interrupted; it is gone then.
fn reaped(pid: i32, code: i32) -> Result<(), String> {
    let status = wait(pid).map_err(|e| format!("waitpid: {e}"))?;
    if !libc::WIFEXITED(status) || libc::WEXITSTATUS(status) != code {
        return Err(format!("child {pid}: status {status:#x}, not {code}"));
    }
    match wait(pid) {
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => Ok(()),
        other => Err(format!("child {pid} was reaped twice: {other:?}")),
    }
}

extern "C" fn stray(signal: libc::c_int) {
    STRAY.store(signal, Ordering::Relaxed);
}

/// SIGCHLD is only to tell of ends.
extern "C" fn of_child(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a siginfo with SA_SIGINFO.
    if unsafe { (*info).si_code } != libc::CLD_EXITED {
        STRAY.store(signal, Ordering::Relaxed);
    }
}

/// Puts a handler in place for every signal.
pub(crate) fn watch() -> Result<(), String> {
    let mine = [libc::SIGKILL, libc::SIGSTOP, 32, 33];
    for signal in (1..=64).filter(|s| !mine.contains(s)) {
        let (handler, flags) = match signal {
            libc::SIGCHLD => (of_child as *const () as usize, libc::SA_SIGINFO),
            _ => (stray as *const () as usize, 0),
        };
        let action = libc::sigaction {
            sa_sigaction: handler,
            sa_flags: flags | libc::SA_RESTART,
            // SAFETY: a signal set of zeros is the empty one.
            sa_mask: unsafe { std::mem::zeroed() },
            sa_restorer: None,
        };
        // SAFETY: the action is live; its handler stores a number.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
            return Err(format!("sigaction {signal}"));
        }
    }
    Ok(())
}
