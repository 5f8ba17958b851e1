//! timerfd_create(2).

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_gettime, timerfd_settime,
};

use crate::harness::{Stage, Victim};
use crate::regular::text;
use crate::sys::same;

pub(crate) fn victims() -> Vec<Victim> {
    // What remains goes down, and ticks come, whatever anybody does.
    let moving = |name, body| {
        Victim::new(name, body)
            .allow("fd/*/it_value")
            .allow("fd/*/ticks")
    };
    vec![moving("timerfd", timerfd), moving("timerfd-ticks", ticks)]
}

const SECOND: i64 = 1_000_000_000;

fn spec(ns: i64) -> Timespec {
    Timespec {
        tv_sec: ns / SECOND,
        tv_nsec: ns % SECOND,
    }
}

fn ns(spec: Timespec) -> i64 {
    spec.tv_sec * SECOND + spec.tv_nsec
}

fn make(
    clock: TimerfdClockId,
    flags: TimerfdTimerFlags,
    value: i64,
    interval: i64,
) -> Result<OwnedFd, String> {
    let fd = timerfd_create(clock, TimerfdFlags::NONBLOCK).map_err(text("timerfd"))?;
    let new = Itimerspec {
        it_interval: spec(interval),
        it_value: spec(value),
    };
    timerfd_settime(&fd, flags, &new).map_err(text("settime"))?;
    Ok(fd)
}

fn remains(fd: impl AsFd) -> Result<i64, String> {
    timerfd_gettime(fd)
        .map(|t| ns(t.it_value))
        .map_err(text("gettime"))
}

/// Every clock, relative and absolute: each expires when it should by its own
/// clock, within what a dump and a restore take.
fn timerfd(stage: &mut Stage) -> Result<(), String> {
    let hour = 3600 * SECOND;
    let none = TimerfdTimerFlags::empty();
    let abs = TimerfdTimerFlags::ABSTIME;
    let until = |clock| ns(clock_gettime(clock)) + hour;
    let cancel = abs | TimerfdTimerFlags::CANCEL_ON_SET;
    let timers = [
        (
            "monotonic",
            make(TimerfdClockId::Monotonic, none, hour, 0)?,
            ClockId::Monotonic,
            false,
        ),
        (
            "boottime",
            make(TimerfdClockId::Boottime, none, hour, 5)?,
            ClockId::Boottime,
            false,
        ),
        (
            "realtime",
            make(TimerfdClockId::Realtime, none, hour, 0)?,
            ClockId::Monotonic,
            false,
        ),
        (
            "absolute monotonic",
            make(TimerfdClockId::Monotonic, abs, until(ClockId::Monotonic), 0)?,
            ClockId::Monotonic,
            true,
        ),
        (
            "absolute boottime",
            make(TimerfdClockId::Boottime, abs, until(ClockId::Boottime), 0)?,
            ClockId::Boottime,
            true,
        ),
        (
            "absolute realtime",
            make(
                TimerfdClockId::Realtime,
                cancel,
                until(ClockId::Realtime),
                0,
            )?,
            ClockId::Realtime,
            true,
        ),
    ];
    // Both clocks at one moment, or nearly.
    let expiry = |timer: &(&str, OwnedFd, ClockId, bool)| -> Result<i64, String> {
        let mut closest = (i64::MAX, 0);
        for _ in 0..100 {
            let before = ns(clock_gettime(timer.2));
            let left = remains(&timer.1)?;
            let took = ns(clock_gettime(timer.2)) - before;
            closest = closest.min((took, before + left));
        }
        Ok(closest.1)
    };
    let mut was = timers.iter().map(expiry).collect::<Result<Vec<i64>, _>>()?;
    while stage.next()? {
        for (timer, was) in timers.iter().zip(&mut was) {
            let is = expiry(timer)?;
            let off = (is - *was).abs();
            let allowed = if timer.3 { 2_000_000 } else { 100_000_000 };
            if off > allowed {
                return Err(format!("{} expires {off} ns from when it should", timer.0));
            }
            *was = is;
        }
    }
    Ok(())
}

/// Unread ticks, expired timers, a disarmed one, and one that goes off soon.
fn ticks(stage: &mut Stage) -> Result<(), String> {
    let none = TimerfdTimerFlags::empty();
    let make = |value, interval| make(TimerfdClockId::Monotonic, none, value, interval);
    let (disarmed, fired) = (make(0, 0)?, make(1, 0)?);
    let beating = make(1, SECOND / 1000)?;
    let long = make(1, 3600 * SECOND)?;
    std::thread::sleep(Duration::from_millis(20));
    let read = |fd: &OwnedFd| {
        let mut count = [0; 8];
        rustix::io::read(fd, &mut count[..]).map(|_| u64::from_ne_bytes(count))
    };
    while stage.next()? {
        same("disarmed", &remains(&disarmed)?, &0)?;
        same("disarmed", &read(&disarmed), &Err(rustix::io::Errno::AGAIN))?;
        same("expired", &read(&fired), &Ok(1))?;
        let beats = read(&beating).map_err(text("read"))?;
        if beats < 15 {
            return Err(format!("{beats} ticks of a timer that has gone for 20 ms"));
        }
        same("ticks", &read(&long), &Ok(1))?;
        let soon = make(SECOND / 50, 0)?;
        let mut fds = [PollFd::new(&soon, PollFlags::IN)];
        poll(&mut fds, Some(&spec(5 * SECOND))).map_err(text("poll"))?;
        same("soon", &read(&soon), &Ok(1))?;
        for (fd, interval) in [(&fired, 0), (&long, 3600 * SECOND)] {
            let new = Itimerspec {
                it_interval: spec(interval),
                it_value: spec(1),
            };
            timerfd_settime(fd, none, &new).map_err(text("settime"))?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
