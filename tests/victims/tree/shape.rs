//! Who is whose child, in which session and group.

use rustix::process::{Pid, Signal, getpid, set_child_subreaper, setpgid, setsid};

use super::family::{Job, Relative, child, child_with, clone, end, signal, sleep, wait_for};
use crate::common::tree;
use crate::harness::{Stage, Victim};
use crate::sys::same;

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("tree-deep", deep),
        Victim::new("tree-wide", wide),
        Victim::new("tree-daemon", daemon),
        Victim::new("tree-orphan", orphan),
        Victim::new("tree-before-setsid", before_setsid),
        Victim::new("tree-groups", groups),
        Victim::new("tree-sibling", sibling),
        Victim::new("tree-stopped", stopped),
        Victim::new("tree-threads", threads),
        Victim::new("tree-parent-death", parent_death),
    ]
}

fn nothing() -> Result<Job, String> {
    Ok(Box::new(|| Ok(())))
}

fn idle(stage: &mut Stage, mut relatives: Vec<Relative>) -> Result<(), String> {
    while stage.next()? {
        relatives.iter_mut().try_for_each(Relative::check)?;
    }
    Ok(())
}

/// Each has one child, which it asks when it is asked.
fn descend(depth: u32) -> Result<Job, String> {
    if depth == 0 {
        return nothing();
    }
    let parent = std::process::id();
    let mut next = child(move || {
        let mut job = descend(depth - 1)?;
        Ok(Box::new(move || {
            let now = rustix::process::getppid().map(Pid::as_raw_pid);
            same("parent", &now, &Some(parent.cast_signed()))?;
            job()
        }))
    })?;
    Ok(Box::new(move || next.check()))
}

fn deep(stage: &mut Stage) -> Result<(), String> {
    let mut job = descend(12)?;
    while stage.next()? {
        job()?;
    }
    Ok(())
}

fn wide(stage: &mut Stage) -> Result<(), String> {
    let relatives = (0..12).map(|_| child(nothing)).collect::<Result<_, _>>()?;
    idle(stage, relatives)
}

fn subreaper() -> Result<(), String> {
    set_child_subreaper(Some(getpid())).map_err(|e| e.to_string())
}

fn session() -> Result<(), String> {
    setsid().map(drop).map_err(|e| format!("setsid: {e}"))
}

/// Waits until this process has `count` children.
fn until_children(count: usize) -> Result<(), String> {
    let me = std::process::id();
    crate::common::wait::until("children", crate::common::wait::LIMIT, || {
        Ok((tree::children(me).len() == count).then_some(()))
    })
}

/// Forks twice, with a session in between.
fn daemon(stage: &mut Stage) -> Result<(), String> {
    subreaper()?;
    let pid = clone(0)?;
    if pid == 0 {
        let made = session().and_then(|()| clone(0));
        match made {
            Ok(0) => sleep(),
            made => end(i32::from(made.is_err())),
        }
    }
    same("status", &wait_for(pid)?, &0)?;
    until_children(1)?;
    idle(stage, Vec::new())
}

/// A process in the session of a task further below is adopted by the first.
fn orphan(stage: &mut Stage) -> Result<(), String> {
    subreaper()?;
    let relative = child(|| {
        let between = child(|| {
            session()?;
            let pid = clone(0)?;
            if pid == 0 {
                match clone(0) {
                    Ok(0) => sleep(),
                    made => end(i32::from(made.is_err())),
                }
            }
            same("status", &wait_for(pid)?, &0)?;
            nothing()
        })?;
        let mut between = between;
        Ok(Box::new(move || between.check()))
    })?;
    until_children(2)?;
    idle(stage, vec![relative])
}

/// Children from before and after their parent made a session.
fn before_setsid(stage: &mut Stage) -> Result<(), String> {
    let relative = child(|| {
        let mut old = child(nothing)?;
        session()?;
        let mut new = child(nothing)?;
        Ok(Box::new(move || old.check().and_then(|()| new.check())))
    })?;
    idle(stage, vec![relative])
}

/// A group whose leader has gone, one with its leader, and one whose leader
/// has changed to another.
fn groups(stage: &mut Stage) -> Result<(), String> {
    let own_group = || setpgid(None, None).map_err(|e| e.to_string());
    let leader = child(|| own_group().and_then(|()| nothing()))?;
    let gone = child(|| own_group().and_then(|()| nothing()))?;
    let moved = child(|| own_group().and_then(|()| nothing()))?;
    let (mut in_group, raw) = (Vec::new(), |r: &Relative| {
        Pid::from_raw(r.pid.cast_signed())
    });
    for of in [&leader, &gone, &moved] {
        let (group, member) = (raw(of), child(nothing)?);
        setpgid(raw(&member), group).map_err(|e| e.to_string())?;
        in_group.push(member);
    }
    setpgid(raw(&moved), raw(&leader)).map_err(|e| e.to_string())?;
    drop(gone);
    in_group.extend([leader, moved]);
    idle(stage, in_group)
}

/// Made by its own sibling.
fn sibling(stage: &mut Stage) -> Result<(), String> {
    let relative = child(|| {
        // Its maker is no parent of it: it ends with the family.
        std::mem::forget(child_with(libc::CLONE_PARENT, nothing)?);
        nothing()
    });
    let relative = relative?;
    until_children(2)?;
    idle(stage, vec![relative])
}

fn stopped(stage: &mut Stage) -> Result<(), String> {
    let (awake, asleep) = (child(nothing)?, child(nothing)?);
    signal(asleep.pid, Signal::STOP)?;
    let stands = || tree::stat(asleep.pid).is_some_and(|fields| fields[0] == "T");
    crate::common::wait::until("the stop", crate::common::wait::LIMIT, || {
        Ok(stands().then_some(()))
    })?;
    let mut relatives = vec![awake];
    while stage.next()? {
        relatives.iter_mut().try_for_each(Relative::check)?;
        same("stopped", &stands(), &true)?;
    }
    drop(relatives);
    // It goes on where it was.
    signal(asleep.pid, Signal::CONT)?;
    let mut asleep = asleep;
    asleep.check()
}

fn threads(stage: &mut Stage) -> Result<(), String> {
    let relatives = (0..3).map(|_| {
        child(|| {
            let mut threads = crate::sys::Threads::new();
            for n in 0..4_u32 {
                threads.spawn(move || {
                    let tid = crate::sys::tid();
                    Ok(Box::new(move || {
                        same(&format!("tid {n}"), &crate::sys::tid(), &tid)
                    }))
                })?;
            }
            Ok(Box::new(move || threads.check()))
        })
    });
    let relatives = relatives.collect::<Result<_, _>>()?;
    idle(stage, relatives)
}

/// A signal at its parent's end, which does not come at the restore's.
fn parent_death(stage: &mut Stage) -> Result<(), String> {
    let mut relative = child(|| {
        // Makes a grandchild that is to end with it.
        let mut grandchild = child(|| {
            let set = [libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64];
            crate::sys::prctl("set", &set)?;
            Ok(Box::new(|| {
                let mut signal = 0_i32;
                let get = [libc::PR_GET_PDEATHSIG as u64, crate::sys::to(&mut signal)];
                crate::sys::prctl("get", &get)?;
                same("parent-death signal", &signal, &libc::SIGKILL)
            }))
        })?;
        Ok(Box::new(move || grandchild.check()))
    })?;
    while stage.next()? {
        relative.check()?;
    }
    let below = tree::below(relative.pid);
    same("grandchildren", &below.len(), &1)?;
    subreaper()?;
    drop(relative);
    same("signal", &wait_for(below[0])?, &libc::SIGKILL)
}
