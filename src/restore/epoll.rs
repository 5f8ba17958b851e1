//! epoll(7).

use std::os::fd::OwnedFd;

use icecore_images::epoll::{EpollState, EpollTarget};
use icecore_images::files::{FdTable, FileKind};
use rustix::event::epoll::{CreateFlags, create};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::RestoreContext;
use super::descriptors::{Opened, values};
use crate::tracer::{Arg, Script};

const EPOLL_CTL_ADD: u64 = 1;
/// EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP.
const ANYTHING: u32 = 0x2007;
/// EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE: all that is left of
/// the events of a registration that EPOLLONESHOT has disarmed.
const PRIVATE: u32 = 0xf000_0000;
const ONESHOT: u32 = 0x4000_0000;

/// An instance without registrations.
pub(super) fn open() -> std::io::Result<OwnedFd> {
    Ok(create(CreateFlags::CLOEXEC)?)
}

/// Whether the task has the watched description under the number it was
/// registered under.
pub(super) fn is_stale(table: &FdTable, target: &EpollTarget) -> bool {
    let at = table.entries.binary_search_by_key(&target.fd, |e| e.fd);
    !at.is_ok_and(|at| table.entries[at].description == target.description)
}

/// Registers what the task has under another number by now, or none: for a
/// moment it is put at its old one. In a task that has our descriptors and
/// none of its own yet.
pub(super) fn register_stale(
    ctx: &RestoreContext<'_>,
    opened: &Opened,
    table: &FdTable,
    script: &mut Script,
) {
    for file in &ctx.image.files {
        let FileKind::Epoll(state) = &file.kind else {
            continue;
        };
        let Some(instance) = opened
            .number(file.id)
            .filter(|_| opened.sets_up(table, file.id))
        else {
            continue;
        };
        for target in state.targets.iter().filter(|t| is_stale(table, t)) {
            let Some(number) = opened.number(target.description) else {
                continue; // refused by the plan
            };
            let args = values([number, target.fd.into(), 0]);
            script.call("put an old descriptor back", libc::SYS_dup3 as u32, args);
            add(opened, instance, target, script);
        }
    }
}

/// Registers everything else, in the task. Disarmed registrations come first:
/// the event they are disarmed by must be the only one to be had.
pub(super) fn register(
    opened: &Opened,
    table: &FdTable,
    fd: u32,
    state: &EpollState,
    script: &mut Script,
) {
    let fresh = || state.targets.iter().filter(|t| !is_stale(table, t));
    for target in fresh().filter(|t| is_disarmed(t)) {
        add(opened, fd.into(), target, script);
    }
    for target in fresh().filter(|t| !is_disarmed(t)) {
        add(opened, fd.into(), target, script);
    }
}

fn is_disarmed(target: &EpollTarget) -> bool {
    target.events & ONESHOT != 0 && target.events & !PRIVATE == 0
}

fn add(opened: &Opened, instance: u64, target: &EpollTarget, script: &mut Script) {
    let disarmed = is_disarmed(target);
    if !disarmed || !is_ready(opened, target) {
        control(instance, target, target.events, script);
        return;
    }
    control(instance, target, target.events | ANYTHING, script);
    let event = script.buffer(12);
    let args = [
        Arg::Value(instance),
        event.into(),
        Arg::Value(1),
        Arg::Value(0),
    ];
    script.call("take an event", libc::SYS_epoll_wait as u32, args);
}

/// A registration that EPOLLONESHOT has disarmed is disarmed again by taking an
/// event from it. Where its file is not ready for anything it comes back armed
/// for errors and hang-ups, which epoll_ctl(2) always adds.
fn is_ready(opened: &Opened, target: &EpollTarget) -> bool {
    let Some(fd) = opened.fd(target.description) else {
        return false;
    };
    let wanted = PollFlags::from_bits_retain(ANYTHING as u16);
    let mut fds = [PollFd::new(fd, wanted)];
    poll(&mut fds, Some(&Timespec::default())).is_ok() && !fds[0].revents().is_empty()
}

fn control(instance: u64, target: &EpollTarget, events: u32, script: &mut Script) {
    // struct epoll_event is packed.
    let mut bytes = events.to_le_bytes().to_vec();
    bytes.extend(target.data.to_le_bytes());
    let event = script.bytes(&bytes);
    let args = [
        Arg::Value(instance),
        Arg::Value(EPOLL_CTL_ADD),
        Arg::Value(target.fd.into()),
        event.into(),
    ];
    let text = format!("watch descriptor {}", target.fd);
    script.call(text, libc::SYS_epoll_ctl as u32, args);
}
