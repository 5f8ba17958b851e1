//! epoll(7).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::event::epoll::{CreateFlags, Event, EventData, EventFlags, add, create, modify, wait};
use rustix::event::{EventfdFlags, eventfd};

use crate::harness::{Stage, Victim};
use crate::regular::text;
use crate::sys::same;

pub(crate) fn victims() -> Vec<Victim> {
    // The kernel lists registrations by the addresses of their files.
    let watching = |name, body| Victim::new(name, body).allow("fd/*/tfd*");
    vec![
        watching("epoll", epoll),
        watching("epoll-oneshot", oneshot),
        watching("epoll-stale", stale),
        Victim::refused(
            "epoll-in-flight",
            "which no descriptor of any task refers to any more",
            in_flight,
        ),
    ]
}

fn instance() -> Result<OwnedFd, String> {
    create(CreateFlags::CLOEXEC).map_err(text("epoll_create"))
}

fn event(count: u32) -> Result<OwnedFd, String> {
    eventfd(count, EventfdFlags::NONBLOCK).map_err(text("eventfd"))
}

fn watch(ep: &OwnedFd, fd: &OwnedFd, flags: EventFlags, data: u64) -> Result<(), String> {
    add(ep, fd, EventData::new_u64(data), flags).map_err(text("epoll_ctl"))
}

fn ready(ep: &OwnedFd) -> Result<Vec<(u64, EventFlags)>, String> {
    let mut events = [Event {
        flags: EventFlags::empty(),
        data: EventData::new_u64(0),
    }; 8];
    let now = rustix::time::Timespec::default();
    let n = wait(ep, &mut events[..], Some(&now)).map_err(text("epoll_wait"))?;
    let mut all: Vec<_> = events[..n]
        .iter()
        .map(|e| (e.data.u64(), e.flags))
        .collect();
    all.sort_by_key(|e| e.0);
    Ok(all)
}

fn put(fd: &OwnedFd) -> Result<(), String> {
    rustix::io::write(fd, &1_u64.to_ne_bytes()).map_err(text("write"))?;
    Ok(())
}

fn take(fd: &OwnedFd) -> Result<(), String> {
    rustix::io::read(fd, &mut [0; 8][..]).map_err(text("read"))?;
    Ok(())
}

/// Nested four deep; level and edge; user data of all 64 bits.
fn epoll(stage: &mut Stage) -> Result<(), String> {
    let chain = [instance()?, instance()?, instance()?, instance()?];
    let (quiet, loud) = (event(0)?, event(3)?);
    for (i, pair) in chain.windows(2).enumerate() {
        watch(&pair[0], &pair[1], EventFlags::IN, i as u64)?;
    }
    watch(&chain[3], &quiet, EventFlags::IN, u64::MAX)?;
    let flat = instance()?;
    let twin = rustix::io::dup(&loud).map_err(text("dup"))?;
    watch(&flat, &loud, EventFlags::IN, 0x1234_5678_9abc_def0)?;
    watch(&flat, &twin, EventFlags::IN | EventFlags::ET, 7)?;
    while stage.next()? {
        same("quiet", &ready(&chain[0])?, &vec![])?;
        put(&quiet)?;
        same("chain", &ready(&chain[0])?, &vec![(0, EventFlags::IN)])?;
        same(
            "its end",
            &ready(&chain[3])?,
            &vec![(u64::MAX, EventFlags::IN)],
        )?;
        take(&quiet)?;
        same("quiet again", &ready(&chain[0])?, &vec![])?;
        // The edge may come once more after a restore, and must come after a
        // new event.
        ready(&flat)?;
        let level = vec![(0x1234_5678_9abc_def0, EventFlags::IN)];
        same("level", &ready(&flat)?, &level)?;
        put(&loud)?;
        same("edge", &ready(&flat)?.len(), &2)?;
    }
    Ok(())
}

/// Registrations that fire once: armed, and disarmed.
fn oneshot(stage: &mut Stage) -> Result<(), String> {
    let ep = instance()?;
    let once = EventFlags::IN | EventFlags::ONESHOT;
    let (armed, fired) = (event(0)?, event(1)?);
    watch(&ep, &armed, once, 1)?;
    watch(&ep, &fired, once, 2)?;
    same("first", &ready(&ep)?, &vec![(2, EventFlags::IN)])?;
    // A disarmed registration whose file hangs up meanwhile stays silent.
    let (reader, writer) = rustix::pipe::pipe().map_err(text("pipe"))?;
    watch(&ep, &reader, once, 3)?;
    rustix::io::write(&writer, b"x").map_err(text("write"))?;
    same("pipe", &ready(&ep)?, &vec![(3, EventFlags::IN)])?;
    drop(writer);
    while stage.next()? {
        same("disarmed", &ready(&ep)?, &vec![])?;
        put(&fired)?;
        same("disarmed", &ready(&ep)?, &vec![])?;
        put(&armed)?;
        same("armed", &ready(&ep)?, &vec![(1, EventFlags::IN)])?;
        same("disarmed", &ready(&ep)?, &vec![])?;
        take(&armed)?;
        modify(&ep, &armed, EventData::new_u64(1), once).map_err(text("modify"))?;
    }
    Ok(())
}

/// Registered under a number that was closed, and under one that means
/// something else by now; the files live on under other numbers.
fn stale(stage: &mut Stage) -> Result<(), String> {
    let ep = instance()?;
    let (closed, reused) = (event(1)?, event(1)?);
    let other = event(0)?;
    let at = |fd: &OwnedFd, number: i32| -> Result<OwnedFd, String> {
        // SAFETY: nothing else of this program has these numbers.
        let mut old = unsafe { OwnedFd::from_raw_fd(number) };
        rustix::io::dup2(fd, &mut old).map_err(text("dup2"))?;
        Ok(old)
    };
    let first = at(&closed, 91)?;
    watch(&ep, &first, EventFlags::IN, 91)?;
    drop(first);
    let second = at(&reused, 92)?;
    watch(&ep, &second, EventFlags::IN, 92)?;
    std::mem::forget(second);
    let third = at(&other, 92)?;
    watch(&ep, &third, EventFlags::IN, 93)?;
    same("number", &third.as_raw_fd(), &92)?;
    let both = vec![(91, EventFlags::IN), (92, EventFlags::IN)];
    while stage.next()? {
        same("ready", &ready(&ep)?, &both)?;
        put(&third)?;
        same("all", &ready(&ep)?.len(), &3)?;
        take(&other)?;
    }
    Ok(())
}

/// What it watches is held by nobody but a process that is none of ours.
fn in_flight(stage: &mut Stage) -> Result<(), String> {
    let ep = instance()?;
    let pipe = rustix::pipe::pipe().map_err(text("pipe"))?;
    watch(&ep, &pipe.0, EventFlags::IN, 1)?;
    let left_alone = std::process::Command::new("sh")
        .args(["-c", "exec 3<&0; sleep 20 <&3 &"])
        .stdin(pipe.0)
        .status();
    left_alone.map_err(text("start sleep"))?;
    while stage.next()? {
        same("ready", &ready(&ep)?, &vec![])?;
    }
    drop(pipe.1);
    Ok(())
}
