//! Descriptors by which relatives watch each other: pidfds, epoll, owners.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::Timespec;

use super::family::{Job, Relative, child, pipe};
use crate::harness::{Stage, Victim};
use crate::sys::{at, call, same, to};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("tree-pidfd", pidfds),
        Victim::new("tree-epoll", epolls),
        Victim::new("tree-owner", owner),
        Victim::new("tree-proc", proc_files),
    ]
}

fn nothing() -> Result<Job, String> {
    Ok(Box::new(|| Ok(())))
}

fn pidfd(pid: u32) -> Result<OwnedFd, String> {
    let pid = Pid::from_raw(pid.cast_signed()).ok_or("pid 0")?;
    pidfd_open(pid, PidfdFlags::empty()).map_err(|e| e.to_string())
}

/// Which of the things an instance watches have happened.
fn events(instance: &OwnedFd) -> Result<Vec<u64>, String> {
    let mut events = [epoll::Event {
        flags: EventFlags::empty(),
        data: EventData::new_u64(0),
    }; 4];
    let found = epoll::wait(instance, &mut events[..], Some(&Timespec::default()));
    let count = found.map_err(|e| e.to_string())?;
    Ok(events[..count]
        .iter()
        .map(|event| event.data.u64())
        .collect())
}

fn watch(instance: &OwnedFd, fd: impl std::os::fd::AsFd, data: u64) -> Result<(), String> {
    let data = EventData::new_u64(data);
    epoll::add(instance, fd, data, EventFlags::IN).map_err(|e| e.to_string())
}

/// Of a parent and a child, in both and in a sibling, watched by epoll.
fn pidfds(stage: &mut Stage) -> Result<(), String> {
    let me = std::process::id();
    let watched = child(nothing)?;
    let theirs = pidfd(watched.pid)?;
    let instance = epoll::create(CreateFlags::empty()).map_err(|e| e.to_string())?;
    watch(&instance, &theirs, 9)?;
    let number = theirs.as_raw_fd();
    let mut sibling = child(move || {
        let parent = pidfd(me)?;
        Ok(Box::new(move || {
            let zero = [parent.as_raw_fd() as u64, 0, 0, 0];
            call("signal by pidfd", libc::SYS_pidfd_send_signal, &zero)?;
            let zero = [number as u64, 0, 0, 0];
            call("signal by pidfd", libc::SYS_pidfd_send_signal, &zero).map(drop)
        }))
    })?;
    while stage.next()? {
        sibling.check()?;
        same("events", &events(&instance)?, &Vec::new())?;
    }
    drop(watched);
    same("events", &events(&instance)?, &vec![9])
}

/// An instance in two tables: in one of them what it watches is closed.
fn epolls(stage: &mut Stage) -> Result<(), String> {
    let instance = epoll::create(CreateFlags::empty()).map_err(|e| e.to_string())?;
    let (mut read, mut write) = pipe()?;
    let (other, mut tell) = pipe()?;
    watch(&instance, &read, 1)?;
    watch(&instance, &other, 2)?;
    let mut relative = child(move || {
        let mut other: File = other;
        Ok(Box::new(move || {
            let mut byte = [0];
            other.read_exact(&mut byte).map_err(|e| e.to_string())?;
            same("byte", &byte, &[2])
        }))
    })?;
    while stage.next()? {
        same("events", &events(&instance)?, &Vec::new())?;
        write.write_all(&[1]).map_err(|e| e.to_string())?;
        same("events", &events(&instance)?, &vec![1])?;
        read.read_exact(&mut [0]).map_err(|e| e.to_string())?;
        tell.write_all(&[2]).map_err(|e| e.to_string())?;
        same("events", &events(&instance)?, &vec![2])?;
        relative.check()?;
    }
    Ok(())
}

const SIGNAL: u64 = 45;
const ONLY: u64 = 1 << (SIGNAL - 1);

/// A pipe whose signals go to a relative.
fn owner(stage: &mut Stage) -> Result<(), String> {
    let (read, mut write) = pipe()?;
    let mut theirs = read.try_clone().map_err(|e| e.to_string())?;
    call("block", libc::SYS_rt_sigprocmask, &[0, at(&ONLY), 0, 8])?;
    let mut relative: Relative = child(move || {
        Ok(Box::new(move || {
            let (mut info, soon) = ([0_u32; 32], [5_u64, 0]);
            let args = [at(&ONLY), to(&mut info), at(&soon), 8];
            call("take the signal", libc::SYS_rt_sigtimedwait, &args)?;
            theirs.read_exact(&mut [0]).map_err(|e| e.to_string())
        }))
    })?;
    let fd = read.as_raw_fd() as u64;
    let set = |command: i32, value: u64| {
        call("fcntl", libc::SYS_fcntl, &[fd, command as u64, value]).map(drop)
    };
    set(libc::F_SETOWN, relative.pid.into())?;
    set(10, SIGNAL)?; // F_SETSIG
    set(libc::F_SETFL, libc::O_ASYNC as u64)?;
    while stage.next()? {
        write.write_all(&[1]).map_err(|e| e.to_string())?;
        relative.check()?;
    }
    Ok(())
}

/// Files below `/proc` about a relative.
fn proc_files(stage: &mut Stage) -> Result<(), String> {
    let relative = child(nothing)?;
    let pid = relative.pid;
    let mut file = File::open(format!("/proc/{pid}/comm")).map_err(|e| e.to_string())?;
    let mut theirs = file.try_clone().map_err(|e| e.to_string())?;
    let mut sibling = child(move || Ok(Box::new(move || name(&mut theirs).map(drop))))?;
    let before = name(&mut file)?;
    while stage.next()? {
        sibling.check()?;
        same("name", &name(&mut file)?, &before)?;
    }
    drop(relative);
    Ok(())
}

fn name(file: &mut File) -> Result<String, String> {
    use std::io::Seek;
    let mut text = String::new();
    file.rewind().map_err(|e| e.to_string())?;
    file.read_to_string(&mut text).map_err(|e| e.to_string())?;
    Ok(text)
}
