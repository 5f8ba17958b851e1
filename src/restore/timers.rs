//! Interval timers and POSIX timers.
//!
//! Timers are created with their ids while there are privileges (alarm clocks
//! want CAP_WAKE_ALARM) and armed at the very end. A timer whose signal was
//! queued is armed in the past: it fires at once, and the kernel knows the
//! signal as the timer's own, as before. (Its place among other signals of the
//! same number may differ then.)

use icecore_images::task::TaskState;
use icecore_images::timers::{ClockState, IntervalTimer, PosixTimer, TimerNotify};
use linux_raw_sys::prctl::PR_TIMER_CREATE_RESTORE_IDS;

use super::RestoreContext;
use crate::blocker::Place;
use crate::kernel::capability::{self, CAP_WAKE_ALARM};
use crate::kernel::prctl::timer_restore_ids;
use crate::tracer::{Script, args};

const NANOS: u64 = 1_000_000_000;
const MICROS: u64 = 1_000_000;
const TIMER_ABSTIME: u32 = 1;
/// On kernels before 6.15 ids are had by creating and deleting timers; more
/// than this is unreasonable.
const MOST_TRIES: u32 = 50_000;

/// Creates the task's timers; in its leader.
pub(super) fn create(ctx: &RestoreContext<'_>, task: &TaskState, script: &mut Script) {
    let restore_ids = timer_restore_ids();
    if task.posix_timers.is_empty() {
        return;
    }
    if restore_ids {
        set_restore_ids(script, true);
        for timer in &task.posix_timers {
            create_one(ctx, timer, script);
        }
        set_restore_ids(script, false);
    } else {
        create_by_counting(ctx, task, script);
    }
}

fn set_restore_ids(script: &mut Script, on: bool) {
    script.call(
        "choose how timer ids are given",
        libc::SYS_prctl as u32,
        args![PR_TIMER_CREATE_RESTORE_IDS, u32::from(on), 0, 0, 0],
    );
}

/// A fresh task counts its timers from 0: whatever lies between the wanted
/// ones is created and deleted again. Were the count off, deleting would fail.
fn create_by_counting(ctx: &RestoreContext<'_>, task: &TaskState, script: &mut Script) {
    let mut next = 0;
    for timer in &task.posix_timers {
        for id in next..timer.id {
            let filler = PosixTimer {
                id,
                clock: libc::CLOCK_MONOTONIC,
                notify: TimerNotify::None,
                signal: 0,
                ..*timer
            };
            create_one(ctx, &filler, script);
            let nr = libc::SYS_timer_delete as u32;
            script.call(format!("skip timer id {id}"), nr, args![id]);
        }
        create_one(ctx, timer, script);
        next = timer.id + 1;
    }
}

/// `struct sigevent`: value, signal, notification, thread.
fn create_one(ctx: &RestoreContext<'_>, timer: &PosixTimer, script: &mut Script) {
    let (notify, tid) = match timer.notify {
        TimerNotify::None => (libc::SIGEV_NONE, 0),
        TimerNotify::Signal => (libc::SIGEV_SIGNAL, 0),
        TimerNotify::Thread { tid } => (libc::SIGEV_THREAD_ID, ctx.id_now(tid)),
    };
    let mut event = [0; 64];
    event[..8].copy_from_slice(&timer.value.to_le_bytes());
    event[8..12].copy_from_slice(&timer.signal.to_le_bytes());
    event[12..16].copy_from_slice(&notify.to_le_bytes());
    event[16..20].copy_from_slice(&tid.to_le_bytes());
    let event = script.bytes(&event);
    let id = script.bytes(&timer.id.to_le_bytes());
    script.call(
        format!("create timer {}", timer.id),
        libc::SYS_timer_create as u32,
        args![clock_now(timer.clock, |id| ctx.id_now(id)), event, id],
    );
}

/// A CPU clock names its task or thread by the inverted id above three bits of
/// kind; it names the id of now.
fn clock_now(clock: i32, id_now: impl Fn(u32) -> u32) -> i32 {
    match clock < 0 {
        true => (!(id_now(!(clock >> 3) as u32) as i32) << 3) | (clock & 7),
        false => clock,
    }
}

/// Arms interval timers and POSIX timers; `clocks` as the task sees them, or a
/// moment earlier.
pub(super) fn arm(task: &TaskState, clocks: &ClockState, script: &mut Script) {
    for (which, timer) in task.interval_timers.iter().enumerate() {
        arm_interval(which, timer, script);
    }
    for timer in &task.posix_timers {
        arm_posix(timer, clocks, script);
    }
}

/// An interval timer whose signal is queued shows no time left but an interval:
/// it runs again when the signal is taken. It is let fire, its signal merges
/// with the queued one.
fn arm_interval(which: usize, timer: &IntervalTimer, script: &mut Script) {
    if timer.value_us == 0 && timer.interval_us == 0 {
        return;
    }
    let value = timer.value_us.max(1);
    let words = [
        timer.interval_us / MICROS,
        timer.interval_us % MICROS,
        value / MICROS,
        value % MICROS,
    ];
    let new = words_of(script, words);
    let nr = libc::SYS_setitimer as u32;
    script.call("set an interval timer", nr, args![which, new, 0]);
}

fn arm_posix(timer: &PosixTimer, clocks: &ClockState, script: &mut Script) {
    let (flags, value) = match timer.fired {
        true => (TIMER_ABSTIME, last_expiry(timer, clocks)),
        false if timer.remaining_ns == 0 => return,
        false => (0, timer.remaining_ns),
    };
    let words = [
        timer.interval_ns / NANOS,
        timer.interval_ns % NANOS,
        value / NANOS,
        value % NANOS,
    ];
    let new = words_of(script, words);
    script.call(
        format!("arm timer {}", timer.id),
        libc::SYS_timer_settime as u32,
        args![timer.id, flags, new, 0],
    );
}

/// When a timer that has fired did so last, on its clock; never 0, which would
/// disarm it.
fn last_expiry(timer: &PosixTimer, clocks: &ClockState) -> u64 {
    let now = match timer.clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM | libc::CLOCK_TAI => clocks.realtime_ns,
        libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => clocks.boottime_ns,
        _ => clocks.monotonic_ns,
    };
    let into = timer.interval_ns.saturating_sub(timer.remaining_ns);
    u64::try_from(now).unwrap_or(0).saturating_sub(into).max(1)
}

fn words_of(script: &mut Script, words: [u64; 4]) -> crate::tracer::Buffer {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    script.bytes(&bytes)
}

/// Notes timers that could not be made here.
pub(super) fn plan(ctx: &mut RestoreContext<'_>, task: &TaskState) {
    let restore_ids = timer_restore_ids();
    let place = Place::Task { pid: task.pid };
    let alarm = |t: &&PosixTimer| {
        [libc::CLOCK_REALTIME_ALARM, libc::CLOCK_BOOTTIME_ALARM].contains(&t.clock)
    };
    if let Some(timer) = task.posix_timers.iter().find(alarm)
        && !capability::have(CAP_WAKE_ALARM)
    {
        let problem = format!(
            "timer {} can wake the machine, which needs CAP_WAKE_ALARM",
            timer.id
        );
        ctx.obstacle(
            place.clone(),
            problem,
            Some("run icecore with CAP_WAKE_ALARM"),
        );
    }
    let highest = task.posix_timers.iter().map(|t| t.id).max().unwrap_or(0);
    if !restore_ids && highest > MOST_TRIES {
        let problem =
            format!("timer {highest} has an id that this kernel cannot be brought to give");
        ctx.obstacle(
            place,
            problem,
            Some("Linux 6.15 gives timers the ids one asks for"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(id: u32) -> PosixTimer {
        PosixTimer {
            id,
            clock: libc::CLOCK_MONOTONIC,
            notify: TimerNotify::Signal,
            signal: 10,
            value: 0,
            remaining_ns: 30,
            interval_ns: 100,
            overrun: 0,
            fired: true,
        }
    }

    #[test]
    fn a_timer_that_fired_keeps_its_phase() {
        let clocks = ClockState {
            monotonic_ns: 1000,
            ..ClockState::default()
        };
        assert_eq!(last_expiry(&timer(0), &clocks), 930);
        assert_eq!(last_expiry(&timer(0), &ClockState::default()), 1);
    }

    #[test]
    fn cpu_clocks_follow_the_id() {
        let by_id = |id: i32, kind| (!id << 3) | kind;
        let now = |id| if id == 77 { 99 } else { id };
        assert_eq!(clock_now(by_id(77, 2), now), by_id(99, 2));
        assert_eq!(clock_now(by_id(77, 6), now), by_id(99, 6));
        assert_eq!(clock_now(by_id(78, 2), now), by_id(78, 2));
        assert_eq!(clock_now(-6, now), -6, "its maker's own");
        assert_eq!(clock_now(libc::CLOCK_BOOTTIME, now), libc::CLOCK_BOOTTIME);
    }
}
