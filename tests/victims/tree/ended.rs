//! Children that have ended and were not reaped.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};

use super::family::{clone, end, signal, sleep, wait_for};
use crate::harness::{Stage, Victim};
use crate::sys::{at, call, same, to};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("tree-ended", ended),
        Victim::new("tree-ended-told", told),
    ]
}

/// Ends in a way, without being reaped.
fn dead(how: impl FnOnce()) -> Result<u32, String> {
    let pid = clone(0)?;
    if pid == 0 {
        how();
        sleep();
    }
    Ok(pid)
}

fn until_dead(pid: u32) -> Result<(), String> {
    let raw = Pid::from_raw(pid.cast_signed()).ok_or("pid 0")?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(raw), options)
        .map(drop)
        .map_err(|e| e.to_string())
}

fn family() -> Result<[(u32, i32); 4], String> {
    let of = |signal: i32| {
        move || {
            // SAFETY: takes a number.
            unsafe { libc::raise(signal) };
        }
    };
    let no_core = [0_u64, 0];
    call("setrlimit", libc::SYS_setrlimit, &[4, at(&no_core)])?;
    let killed = dead(|| ())?;
    signal(killed, Signal::KILL)?;
    let family = [
        (dead(|| end(3))?, 3 << 8),
        (dead(of(libc::SIGTERM))?, libc::SIGTERM),
        (dead(of(40))?, 40),
        (killed, libc::SIGKILL),
    ];
    family.iter().try_for_each(|(pid, _)| until_dead(*pid))?;
    Ok(family)
}

/// Each status is there once, at the end.
fn ended(stage: &mut Stage) -> Result<(), String> {
    let family = family()?;
    while stage.next()? {
        family.iter().try_for_each(|(pid, _)| until_dead(*pid))?;
    }
    for (pid, status) in family {
        same("status", &wait_for(pid)?, &status)?;
    }
    Ok(())
}

const SIGCHLD_ONLY: u64 = 1 << (libc::SIGCHLD - 1);

/// The signal of a death that was taken does not come again; one that waits to
/// be taken does so once.
fn told(stage: &mut Stage) -> Result<(), String> {
    call(
        "block",
        libc::SYS_rt_sigprocmask,
        &[0, at(&SIGCHLD_ONLY), 0, 8],
    )?;
    let taken = dead(|| end(1))?;
    until_dead(taken)?;
    same("told of the first", &take()?, &Some(taken))?;
    let mut waiting = dead(|| end(2))?;
    until_dead(waiting)?;
    while stage.next()? {
        same("told of the next", &take()?, &Some(waiting))?;
        same("told once", &take()?, &None)?;
        waiting = dead(|| end(2))?;
        until_dead(waiting)?;
    }
    Ok(())
}

/// The child of which a pending SIGCHLD tells.
fn take() -> Result<Option<u32>, String> {
    let (mut info, now) = ([0_u32; 32], [0_u64; 2]);
    let args = [at(&SIGCHLD_ONLY), to(&mut info), at(&now), 8];
    match call("rt_sigtimedwait", libc::SYS_rt_sigtimedwait, &args) {
        Ok(_) => Ok(Some(info[4])),
        Err(e) if e.contains("Resource temporarily") => Ok(None),
        Err(e) => Err(e),
    }
}
