//! Interval timers and POSIX timers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Stage, Victim};
use crate::sys::{at, call, prctl, same, tid, to};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("timers", timers).check(|outside| match outside.get("timers") {
            Some(text) if text.matches("ClockID").count() > 10 => Ok(()),
            other => Err(format!("timers are {other:?}")),
        }),
        Victim::new("timers-fired", fired),
        Victim::new("interval-timers", interval),
        Victim::new("interval-timer-fired", interval_fired),
        Victim::new("timers-flying", flying).allow("*Pnd"),
    ]
}

const SIGNAL: u32 = 45;
const TAI: i32 = 11;

/// `struct sigevent` as words of 32 bits.
fn event(notify: i32, signal: u32, value: u64) -> [u32; 16] {
    let mut event = [0; 16];
    (event[0], event[1]) = (value as u32, (value >> 32) as u32);
    (event[2], event[3], event[4]) = (signal, notify as u32, tid());
    event
}

fn create(clock: i32, event: &[u32; 16]) -> Result<u32, String> {
    let mut id = 0_u32;
    let args = [clock as i64 as u64, at(event), to(&mut id)];
    call(
        &format!("timer_create({clock})"),
        libc::SYS_timer_create,
        &args,
    )?;
    Ok(id)
}

/// Interval and value, seconds and nanoseconds each.
type Times = [u64; 4];

fn set(id: u32, times: Times) -> Result<(), String> {
    let args = [id.into(), 0, at(&times), 0];
    call("timer_settime", libc::SYS_timer_settime, &args).map(drop)
}

fn get(id: u32) -> Result<Times, String> {
    let mut times: Times = [0; 4];
    call(
        "timer_gettime",
        libc::SYS_timer_gettime,
        &[id.into(), to(&mut times)],
    )?;
    Ok(times)
}

fn left(times: Times) -> Duration {
    Duration::new(times[2], times[3] as u32)
}

fn block(signals: &[u32]) -> Result<u64, String> {
    let set = signals.iter().fold(0_u64, |set, s| set | 1 << (s - 1));
    let args = [libc::SIG_BLOCK as u64, at(&set), 0, 8];
    call("block", libc::SYS_rt_sigprocmask, &args)?;
    Ok(set)
}

/// Waits up to `limit` for a signal of `set`.
fn wait(set: u64, limit: Duration) -> Option<[u32; 32]> {
    let mut info = [0_u32; 32];
    let limit = [limit.as_secs(), limit.subsec_nanos().into()];
    let args = [at(&set), to(&mut info), at(&limit), 8];
    call("rt_sigtimedwait", libc::SYS_rt_sigtimedwait, &args).ok()?;
    Some(info)
}

/// CPU clocks by id: (~id << 3) | kind.
fn cpu_clock(id: u32, of_thread: bool) -> i32 {
    (!(id as i32) << 3) | 2 | i32::from(of_thread) << 2
}

/// Every clock and every notification, with gaps between the ids; what is left
/// of each goes down as its clock goes on, and only then.
fn timers(stage: &mut Stage) -> Result<(), String> {
    block(&[SIGNAL])?;
    let clocks = [
        libc::CLOCK_REALTIME,
        libc::CLOCK_MONOTONIC,
        libc::CLOCK_BOOTTIME,
        TAI,
        libc::CLOCK_REALTIME_ALARM,
        libc::CLOCK_BOOTTIME_ALARM,
        libc::CLOCK_PROCESS_CPUTIME_ID,
        libc::CLOCK_THREAD_CPUTIME_ID,
        cpu_clock(std::process::id(), false),
        cpu_clock(tid(), true),
    ];
    let mut made = Vec::new();
    for (n, &clock) in clocks.iter().enumerate() {
        let skipped = create(libc::CLOCK_MONOTONIC, &event(libc::SIGEV_NONE, 0, 0))?;
        for notify in [libc::SIGEV_NONE, libc::SIGEV_SIGNAL, libc::SIGEV_THREAD_ID] {
            let value = 0xcafe_0000_0000 + n as u64;
            match create(clock, &event(notify, SIGNAL, value)) {
                Ok(id) => made.push((id, clock)),
                // A machine without a clock that could wake it.
                Err(e) if clock == 8 || clock == 9 => eprintln!("left out: {e}"),
                Err(e) => return Err(e),
            }
        }
        call("timer_delete", libc::SYS_timer_delete, &[skipped.into()])?;
    }
    // By ids of one's own, where the kernel lets one choose.
    const RESTORE_IDS: u64 = 77;
    if prctl("choose ids", &[RESTORE_IDS, 1]).is_ok() {
        let event = event(libc::SIGEV_NONE, 0, 1);
        let id = 1_234_567_u32;
        call(
            "timer_create",
            libc::SYS_timer_create,
            &[1, at(&event), at(&id)],
        )?;
        made.push((id, libc::CLOCK_MONOTONIC));
        prctl("choose no ids", &[RESTORE_IDS, 0])?;
    }
    let disarmed = made.len() - 1;
    for &(id, _) in &made[..disarmed] {
        set(id, [7, 11, 5000, 0])?;
    }
    let start = Instant::now();
    while stage.next()? {
        same("the disarmed timer", &get(made[disarmed].0)?, &[0; 4])?;
        for &(id, clock) in &made[..disarmed] {
            let times = get(id)?;
            same("interval", &(times[0], times[1]), &(7, 11))?;
            let gone = Duration::from_secs(5000).saturating_sub(left(times));
            let elapsed = start.elapsed();
            // Wall clocks are armed with what was left, too.
            let slack = Duration::from_millis(400);
            let right = match clock < 0 || clock == 2 || clock == 3 {
                true => gone < elapsed + slack,
                false => gone < elapsed + slack && gone + slack > elapsed,
            };
            if !right {
                return Err(format!(
                    "timer {id} of clock {clock}: {gone:?} went by in {elapsed:?}"
                ));
            }
        }
    }
    Ok(())
}

/// Timers whose signals are queued: each has one, knows it as its own, and goes
/// on when it is taken.
fn fired(stage: &mut Stage) -> Result<(), String> {
    let once = create(1, &event(libc::SIGEV_SIGNAL, 46, 46))?;
    let periodic = create(1, &event(libc::SIGEV_SIGNAL, 47, 47))?;
    let to_thread = create(0, &event(libc::SIGEV_THREAD_ID, 48, 48))?;
    let classic = create(7, &event(libc::SIGEV_SIGNAL, libc::SIGUSR1 as u32, 10))?;
    let signals = [46, 47, 48, libc::SIGUSR1 as u32];
    let all = block(&signals)?;
    let arm = |id| set(id, [0, 20_000_000, 0, 1_000_000]);
    let arm_once = || set(once, [0, 0, 0, 1]);
    arm_once()?;
    [periodic, to_thread, classic]
        .into_iter()
        .try_for_each(arm)?;
    std::thread::sleep(Duration::from_millis(50));
    while stage.next()? {
        // Two periods must have passed unheard after the dump.
        std::thread::sleep(Duration::from_millis(50));
        let ids = [once, periodic, to_thread, classic];
        for (signal, id) in signals.into_iter().zip(ids) {
            let mine = 1 << (signal - 1);
            let info = wait(mine, Duration::ZERO).ok_or(format!("signal {signal} is gone"))?;
            same(
                "code and timer",
                &(info[2] as i32, info[4]),
                &(libc::SI_TIMER, id),
            )?;
            if id == once {
                same("left of a timer that fired", &get(id)?, &[0; 4])?;
                same(
                    "another signal",
                    &wait(mine, Duration::from_millis(30)).is_some(),
                    &false,
                )?;
                continue;
            }
            if info[5] < 2 {
                return Err(format!("timer {id} missed only {}", info[5]));
            }
            let again = wait(mine, Duration::from_secs(5));
            again.ok_or(format!("timer {id} has stopped"))?;
        }
        arm_once()?;
        std::thread::sleep(Duration::from_millis(50));
        let mut pending = 0_u64;
        call(
            "rt_sigpending",
            libc::SYS_rt_sigpending,
            &[to(&mut pending), 8],
        )?;
        same("pending", &(pending & all), &all)?;
    }
    Ok(())
}

fn interval_timer(which: u64) -> Result<Times, String> {
    let mut times: Times = [0; 4];
    call("getitimer", libc::SYS_getitimer, &[which, to(&mut times)])?;
    Ok(times)
}

fn set_interval(which: u64, times: Times) -> Result<(), String> {
    call("setitimer", libc::SYS_setitimer, &[which, at(&times), 0]).map(drop)
}

fn interval(stage: &mut Stage) -> Result<(), String> {
    for which in 0..3 {
        set_interval(which, [which + 1, 17, 4000, 0])?;
    }
    let start = Instant::now();
    while stage.next()? {
        for which in 0..3 {
            let times = interval_timer(which)?;
            same("interval", &(times[0], times[1]), &(which + 1, 17))?;
            let left = Duration::from_secs(times[2]) + Duration::from_micros(times[3]);
            let gone = Duration::from_secs(4000).saturating_sub(left);
            let slack = Duration::from_millis(400);
            let elapsed = start.elapsed();
            if gone > elapsed + slack || (which == 0 && gone + slack < elapsed) {
                return Err(format!("timer {which}: {gone:?} went by in {elapsed:?}"));
            }
        }
    }
    Ok(())
}

/// A periodic ITIMER_REAL stands still while its signal is queued.
fn interval_fired(stage: &mut Stage) -> Result<(), String> {
    let alarm = block(&[libc::SIGALRM as u32])?;
    set_interval(0, [0, 10_000, 0, 1_000])?;
    std::thread::sleep(Duration::from_millis(20));
    while stage.next()? {
        wait(alarm, Duration::ZERO).ok_or("SIGALRM is gone")?;
        wait(alarm, Duration::from_secs(5)).ok_or("the timer has stopped")?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// How often each signal came.
static TICKS: [AtomicU64; 65] = [const { AtomicU64::new(0) }; 65];

extern "C" fn tick(signal: i32) {
    TICKS[signal as usize].fetch_add(1, Ordering::Relaxed);
}

/// Timers that fire a thousand times a second, with handlers, all the while;
/// none may stop.
fn flying(stage: &mut Stage) -> Result<(), String> {
    let mut old = [0_u64; 4];
    let args = [libc::SIGSEGV as u64, 0, to(&mut old), 8];
    call("rt_sigaction", libc::SYS_rt_sigaction, &args)?;
    // SA_RESTART | SA_RESTORER
    let new = [tick as *const () as u64, 0x1400_0000, old[2], 0];
    let signals = [libc::SIGALRM as usize, 46, 47];
    for signal in signals {
        let args = [signal as u64, at(&new), 0, 8];
        call("rt_sigaction", libc::SYS_rt_sigaction, &args)?;
    }
    set(
        create(1, &event(libc::SIGEV_SIGNAL, 46, 1))?,
        [0, 1_000_000, 0, 1],
    )?;
    set(
        create(0, &event(libc::SIGEV_THREAD_ID, 47, 2))?,
        [0, 1_300_000, 0, 1],
    )?;
    set_interval(0, [0, 1_100, 0, 1])?;
    while stage.next()? {
        for signal in signals {
            let ticks = || TICKS[signal].load(Ordering::Relaxed);
            let (start, before) = (Instant::now(), ticks());
            while ticks() < before + 20 {
                if start.elapsed() > Duration::from_secs(10) {
                    return Err(format!("signal {signal} comes no more"));
                }
                std::hint::spin_loop();
            }
        }
    }
    Ok(())
}
