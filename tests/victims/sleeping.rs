//! Threads asleep in system calls: each wait takes its own time and no other,
//! through dumps and restores, and never ends with EINTR.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::{Stage, Victim};
use crate::sys::{at, call, to};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("sleeping", |stage| sleep_in(stage, RELATIVE)),
        Victim::new("sleeping-until", |stage| sleep_in(stage, ABSOLUTE)),
        Victim::new("waiting", waiting),
    ]
}

/// What each wait is to take, and how exactly.
const WAIT: Duration = Duration::from_millis(2000);
const EARLY: Duration = Duration::from_millis(5);
const LATE: Duration = Duration::from_millis(1000);

/// A wait: its name, what it ends with, and itself.
type Wait = (&'static str, Ending, fn() -> io::Result<i64>);

#[derive(Clone, Copy, PartialEq)]
enum Ending {
    Zero,
    Error(i32),
}

const RELATIVE: &[Wait] = &[
    ("nanosleep", Ending::Zero, || {
        raw(libc::SYS_nanosleep, &[at(&timespec(WAIT)), 0])
    }),
    ("nanosleep with rest", Ending::Zero, || {
        let mut rest = [0u64; 2];
        raw(libc::SYS_nanosleep, &[at(&timespec(WAIT)), to(&mut rest)])
    }),
    ("clock_nanosleep", Ending::Zero, || {
        let clock = libc::CLOCK_MONOTONIC as u64;
        raw(
            libc::SYS_clock_nanosleep,
            &[clock, 0, at(&timespec(WAIT)), 0],
        )
    }),
    ("poll", Ending::Zero, || {
        raw(libc::SYS_poll, &[0, 0, WAIT.as_millis() as u64])
    }),
    ("ppoll", Ending::Zero, || {
        let (mut time, mask) = (timespec(WAIT), 0u64);
        raw(libc::SYS_ppoll, &[0, 0, to(&mut time), at(&mask), 8])
    }),
    ("select", Ending::Zero, || {
        let mut time = [0u64, WAIT.as_micros() as u64];
        raw(libc::SYS_select, &[0, 0, 0, 0, to(&mut time)])
    }),
    ("pselect6", Ending::Zero, || {
        let mut time = timespec(WAIT);
        raw(libc::SYS_pselect6, &[0, 0, 0, 0, to(&mut time), 0])
    }),
    ("futex", Ending::Error(libc::ETIMEDOUT), || {
        let word = 0u32;
        let (wait, time) = (libc::FUTEX_WAIT as u64, timespec(WAIT));
        raw(libc::SYS_futex, &[at(&word), wait, 0, at(&time)])
    }),
    ("epoll_wait", Ending::Zero, || {
        with_epoll(|fd, events| {
            let time = WAIT.as_millis() as u64;
            raw(libc::SYS_epoll_wait, &[fd, events, 1, time])
        })
    }),
    ("epoll_pwait", Ending::Zero, || {
        with_epoll(|fd, events| {
            let (time, mask) = (WAIT.as_millis() as u64, u64::MAX);
            raw(libc::SYS_epoll_pwait, &[fd, events, 1, time, at(&mask), 8])
        })
    }),
    ("epoll_pwait2", Ending::Zero, || {
        with_epoll(|fd, events| {
            let time = timespec(WAIT);
            raw(libc::SYS_epoll_pwait2, &[fd, events, 1, at(&time), 0, 8])
        })
    }),
    ("rt_sigtimedwait", Ending::Error(libc::EAGAIN), || {
        let (set, time) = (1u64 << (libc::SIGUSR2 - 1), timespec(WAIT));
        raw(libc::SYS_rt_sigtimedwait, &[at(&set), 0, at(&time), 8])
    }),
];

const ABSOLUTE: &[Wait] = &[
    ("clock_nanosleep until", Ending::Zero, || {
        let (clock, until) = (libc::CLOCK_MONOTONIC as u64, deadline());
        raw(libc::SYS_clock_nanosleep, &[clock, 1, at(&until), 0])
    }),
    ("futex until", Ending::Error(libc::ETIMEDOUT), || {
        let word = 0u32;
        let wait = libc::FUTEX_WAIT_BITSET as u64;
        let args = [at(&word), wait, 0, at(&deadline()), 0, u64::from(u32::MAX)];
        raw(libc::SYS_futex, &args)
    }),
];

fn raw(nr: i64, args: &[u64]) -> io::Result<i64> {
    match call("", nr, args) {
        Ok(n) => Ok(n as i64),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

fn timespec(time: Duration) -> [u64; 2] {
    [time.as_secs(), u64::from(time.subsec_nanos())]
}

/// CLOCK_MONOTONIC when a wait that begins now is to end.
fn deadline() -> [u64; 2] {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = Duration::new(now.tv_sec as u64, now.tv_nsec as u32);
    timespec(now + WAIT)
}

fn with_epoll(wait: impl FnOnce(u64, u64) -> io::Result<i64>) -> io::Result<i64> {
    let fd = raw(libc::SYS_epoll_create1, &[0])? as u64;
    let mut events = [0u32; 3];
    let waited = wait(fd, to(&mut events));
    raw(libc::SYS_close, &[fd])?;
    waited
}

/// One round of a wait.
fn measure((name, ending, wait): Wait) -> Result<(), String> {
    let start = Instant::now();
    let ended = match wait() {
        Ok(0) => Ending::Zero,
        Ok(n) => return Err(format!("{name} returned {n}")),
        Err(e) => Ending::Error(e.raw_os_error().unwrap_or(0)),
    };
    let took = start.elapsed();
    if ended != ending {
        let error = io::Error::last_os_error();
        return Err(format!("{name} ended otherwise after {took:?}: {error}"));
    }
    match took + EARLY >= WAIT && took <= WAIT + LATE {
        true => Ok(()),
        false => Err(format!("{name} took {took:?} instead of {WAIT:?}")),
    }
}

/// A thread for each wait, which waits again and again.
fn sleep_in(stage: &mut Stage, waits: &'static [Wait]) -> Result<(), String> {
    let wrong: Arc<Mutex<Vec<String>>> = Arc::default();
    let rounds: Vec<Arc<AtomicU64>> = waits.iter().map(|_| Arc::default()).collect();
    for (wait, rounds) in waits.iter().zip(&rounds) {
        let (wrong, rounds) = (Arc::clone(&wrong), Arc::clone(rounds));
        std::thread::spawn(move || {
            loop {
                if let Err(e) = measure(*wait)
                    && let Ok(mut wrong) = wrong.lock()
                {
                    wrong.push(e);
                }
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    // Once each thread has been through it all it changes nothing any more.
    all_go_on(&rounds, 1)?;
    while stage.next()? {
        // The wait that was cut short, and a whole one after it.
        all_go_on(&rounds, 2)?;
        let wrong = wrong.lock().map_err(|e| e.to_string())?;
        if !wrong.is_empty() {
            return Err(wrong.join("\n"));
        }
    }
    Ok(())
}

/// Waits until every thread has done `n` more rounds.
fn all_go_on(rounds: &[Arc<AtomicU64>], n: u64) -> Result<(), String> {
    let start = Instant::now();
    let goals: Vec<u64> = rounds
        .iter()
        .map(|r| r.load(Ordering::Relaxed) + n)
        .collect();
    while rounds
        .iter()
        .zip(&goals)
        .any(|(r, goal)| r.load(Ordering::Relaxed) < *goal)
    {
        if start.elapsed() > Duration::from_secs(20) {
            return Err("a thread does not wake up".to_owned());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Threads that wait without end for each other: a pipe, a futex, a signal.
fn waiting(stage: &mut Stage) -> Result<(), String> {
    let (mut ends, word, heard) = (
        [0i32; 2],
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
    );
    call("pipe", libc::SYS_pipe, &[to(&mut ends)])?;
    let [read, write] = ends.map(|fd| fd as u64);
    let count = |heard: &Arc<AtomicU64>| {
        let heard = Arc::clone(heard);
        move |ended: Result<u64, String>| match ended {
            Ok(_) => drop(heard.fetch_add(1, Ordering::Relaxed)),
            Err(_) => heard.store(u64::MAX / 2, Ordering::Relaxed),
        }
    };
    let tell = count(&heard);
    std::thread::spawn(move || {
        loop {
            let mut byte = 0u8;
            tell(call("read", libc::SYS_read, &[read, to(&mut byte), 1]));
        }
    });
    let (tell, futex) = (count(&heard), Arc::clone(&word));
    std::thread::spawn(move || {
        loop {
            let seen = futex.load(Ordering::Relaxed);
            let args = [at(&*futex), libc::FUTEX_WAIT as u64, seen & 0xffff_ffff, 0];
            tell(call("futex", libc::SYS_futex, &args));
        }
    });
    let mut expected = 0;
    loop {
        // The first time only to see both threads at work.
        if expected > 0 && !stage.next()? {
            return Ok(());
        }
        expected += 2;
        std::thread::sleep(Duration::from_millis(50));
        call("write", libc::SYS_write, &[write, at(&[7u8]), 1])?;
        word.fetch_add(1, Ordering::Relaxed);
        call(
            "wake",
            libc::SYS_futex,
            &[at(&*word), libc::FUTEX_WAKE as u64, 1],
        )?;
        let start = Instant::now();
        while heard.load(Ordering::Relaxed) < expected {
            if start.elapsed() > Duration::from_secs(20) {
                return Err(format!("heard {heard:?} of {expected}"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let heard = heard.load(Ordering::Relaxed);
        if heard != expected {
            return Err(format!("heard {heard} instead of {expected}"));
        }
    }
}
