//! Interval timers, POSIX timers and the clocks they count on.
//!
//! A timer may expire between reading its time and reading the queue of
//! signals. [`signals_of_timers`] before and after tells whether one did; then
//! the reading is repeated. It ends soon: a timer whose signal is queued does
//! not send another.

use icecore_images::signals::PendingSignal;
use icecore_images::timers::{ClockState, IntervalTimer, PosixTimer, TimerNotify};

use super::DumpContext;
use crate::blocker::Place;
use crate::kernel::proc_timers::ProcTimer;
use crate::kernel::siginfo;
use crate::tracer::{Buffer, Call, Outcome, Script, args};

const NANOS: u64 = 1_000_000_000;
const MICROS: u64 = 1_000_000;
/// In a CPU clock's id: of one thread rather than of the whole task.
const PER_THREAD: i32 = 4;
/// In a CPU clock's id: time on the CPU (not user time, not ticks).
const CPUCLOCK_SCHED: i32 = 2;
const CLOCKS: [i32; 3] = [
    libc::CLOCK_REALTIME,
    libc::CLOCK_MONOTONIC,
    libc::CLOCK_BOOTTIME,
];

/// The question for clocks and timers.
#[derive(Debug)]
pub(super) struct TimersAsked {
    clocks: [Buffer; 3],
    interval: [Buffer; 3],
    posix: Vec<(ProcTimer, Buffer, Call)>,
}

/// Asks for clocks, interval timers and the times of `timers`.
pub(super) fn ask(script: &mut Script, timers: &[ProcTimer]) -> TimersAsked {
    let clocks = CLOCKS.map(|clock| {
        let now = script.buffer(16);
        let nr = libc::SYS_clock_gettime as u32;
        script.call("read a clock", nr, args![clock, now]);
        now
    });
    let interval = [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF].map(|which| {
        let value = script.buffer(32);
        let nr = libc::SYS_getitimer as u32;
        script.call("read an interval timer", nr, args![which, value]);
        value
    });
    let posix = timers.iter().map(|timer| {
        let value = script.buffer(32);
        let id = u64::from(timer.id);
        script.call(
            format!("read timer {id}"),
            libc::SYS_timer_gettime as u32,
            args![id, value],
        );
        let overrun = script.call(
            format!("read the overrun of timer {id}"),
            libc::SYS_timer_getoverrun as u32,
            [id],
        );
        (*timer, value, overrun)
    });
    let posix = posix.collect();
    TimersAsked {
        clocks,
        interval,
        posix,
    }
}

impl TimersAsked {
    /// The clocks at the moment the timers were read.
    pub(super) fn clocks(&self, outcome: &Outcome) -> ClockState {
        let [realtime, monotonic, boottime] = self.clocks.map(|now| {
            let seconds = outcome.u64_at(now, 0) as i64;
            seconds
                .wrapping_mul(NANOS as i64)
                .wrapping_add(outcome.u64_at(now, 8) as i64)
        });
        ClockState {
            realtime_ns: realtime,
            monotonic_ns: monotonic,
            boottime_ns: boottime,
        }
    }

    /// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF.
    pub(super) fn interval_timers(&self, outcome: &Outcome) -> [IntervalTimer; 3] {
        self.interval.map(|it| IntervalTimer {
            interval_us: time(outcome, it, 0, MICROS),
            value_us: time(outcome, it, 16, MICROS),
        })
    }

    /// The timers of timer_create(2); none of them yet marked as fired.
    pub(super) fn posix_timers(&self, outcome: &Outcome) -> Vec<PosixTimer> {
        let timer = |&(seen, value, overrun): &(ProcTimer, Buffer, Call)| PosixTimer {
            id: seen.id,
            clock: seen.clock,
            notify: notify(&seen),
            signal: seen.signal,
            value: seen.value,
            interval_ns: time(outcome, value, 0, NANOS),
            remaining_ns: time(outcome, value, 16, NANOS),
            overrun: outcome.result(overrun).unwrap_or_default() as u32,
            fired: false,
        };
        self.posix.iter().map(timer).collect()
    }
}

/// Two words, seconds and a fraction of which `per_second` make one.
fn time(outcome: &Outcome, buffer: Buffer, at: usize, per_second: u64) -> u64 {
    outcome
        .u64_at(buffer, at)
        .saturating_mul(per_second)
        .saturating_add(outcome.u64_at(buffer, at + 8))
}

fn notify(timer: &ProcTimer) -> TimerNotify {
    match (timer.notify, timer.tid) {
        (libc::SIGEV_NONE, _) => TimerNotify::None,
        (_, Some(tid)) => TimerNotify::Thread { tid },
        (_, None) => TimerNotify::Signal,
    }
}

/// Makes what a task's timers, read at the moment `now`, have left that of the
/// moment `then` before it. CPU clocks have stood still in between.
pub(super) fn as_of(
    then: &ClockState,
    now: &ClockState,
    real: &mut IntervalTimer,
    posix_timers: &mut [PosixTimer],
) {
    let passed = |then: i64, now: i64| now.saturating_sub(then).max(0) as u64;
    let elapsed = passed(then.monotonic_ns, now.monotonic_ns);
    let add = |left: &mut u64, more: u64| {
        if *left != 0 {
            *left = left.saturating_add(more);
        }
    };
    add(&mut real.value_us, elapsed / (NANOS / MICROS));
    for timer in posix_timers {
        let on_cpu = timer.clock < 0
            || [
                libc::CLOCK_PROCESS_CPUTIME_ID,
                libc::CLOCK_THREAD_CPUTIME_ID,
            ]
            .contains(&timer.clock);
        if !on_cpu {
            add(&mut timer.remaining_ns, elapsed);
        }
    }
}

/// Names the owners of CPU clocks, and notes timers on the CPU clock of someone
/// else, or of a thread that the kernel does not name.
pub(super) fn resolve(ctx: &mut DumpContext<'_>, pid: u32, tids: &[u32], timers: &mut [ProcTimer]) {
    for timer in timers {
        let problem = match cpu_clock_owner(timer.clock) {
            None | Some((0, false)) => continue,
            // A thread's own clock, and "own" is whoever made the timer.
            Some((0, true)) if tids.len() == 1 => continue,
            Some((0, true)) => match timer.tid {
                Some(tid) => {
                    timer.clock = thread_cpu_clock(tid);
                    continue;
                }
                None => "the CPU time of a thread that the kernel does not name".to_owned(),
            },
            Some((owner, false)) if owner == pid => continue,
            Some((owner, true)) if tids.contains(&owner) => continue,
            Some((owner, _)) if ctx.members.has_thread(owner) => {
                format!("the CPU time of {owner}, another task of the tree")
            }
            Some((owner, _)) => format!("the CPU time of {owner}, which is outside the dump"),
        };
        let problem = format!("timer {} counts {problem}", timer.id);
        ctx.block(Place::Task { pid }, problem, None);
    }
}

/// Whose CPU clock a negative clock id is (0: its maker's own), and whether of
/// a thread alone. Its low three bits tell the kind, the rest is the inverted
/// id.
fn cpu_clock_owner(clock: i32) -> Option<(u32, bool)> {
    (clock < 0).then_some((!(clock >> 3) as u32, clock & PER_THREAD != 0))
}

/// The CPU clock of a thread by its id.
fn thread_cpu_clock(tid: u32) -> i32 {
    (!(tid as i32) << 3) | PER_THREAD | CPUCLOCK_SCHED
}

/// The queued signals that timers have sent.
pub(super) fn signals_of_timers(queue: &[PendingSignal]) -> Vec<&PendingSignal> {
    let interval = |info: &[u8]| {
        [libc::SIGALRM, libc::SIGVTALRM, libc::SIGPROF].contains(&(siginfo::signal(info) as i32))
    };
    queue
        .iter()
        .filter(|s| siginfo::code(&s.siginfo.0) == libc::SI_TIMER || interval(&s.siginfo.0))
        .collect()
}

/// Takes the signals of `timers` out of a queue (the task's, or that of thread
/// `tid`) and marks those timers as fired: restore lets them fire again, so
/// that the kernel knows the signal as the timer's own.
pub(super) fn claim(queue: &mut Vec<PendingSignal>, tid: Option<u32>, timers: &mut [PosixTimer]) {
    queue.retain(|pending| {
        let info = &pending.siginfo.0;
        if siginfo::code(info) != libc::SI_TIMER {
            return true;
        }
        let sender = timers.iter_mut().find(|t| {
            let queue = match t.notify {
                TimerNotify::Thread { tid } => Some(tid),
                TimerNotify::Signal | TimerNotify::None => None,
            };
            !t.fired
                && queue == tid
                && t.id == siginfo::timer_id(info)
                && t.signal == siginfo::signal(info)
                && t.value == siginfo::value(info)
        });
        match sender {
            Some(timer) => {
                timer.fired = true;
                false
            }
            // Forged by sigqueue(3), or of a timer that is gone.
            None => true,
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use icecore_images::ByteString;

    #[test]
    fn what_is_read_later_is_what_was_left_before() {
        let at = |seconds: i64| ClockState {
            monotonic_ns: seconds * NANOS as i64,
            ..ClockState::default()
        };
        let cpu = PosixTimer {
            clock: libc::CLOCK_PROCESS_CPUTIME_ID,
            remaining_ns: 5,
            ..timer(1, TimerNotify::None)
        };
        let mut real = IntervalTimer {
            value_us: 7,
            interval_us: 9,
        };
        let mut timers = [
            PosixTimer {
                remaining_ns: 5,
                ..timer(0, TimerNotify::None)
            },
            cpu,
            // Disarmed.
            timer(2, TimerNotify::None),
        ];
        as_of(&at(10), &at(13), &mut real, &mut timers);
        assert_eq!((real.value_us, real.interval_us), (3_000_007, 9));
        let left = timers.map(|t| t.remaining_ns);
        assert_eq!(left, [3_000_000_005, 5, 0]);
    }

    fn timer(id: u32, notify: TimerNotify) -> PosixTimer {
        PosixTimer {
            id,
            clock: 1,
            notify,
            signal: 34,
            value: 7,
            remaining_ns: 0,
            interval_ns: 0,
            overrun: 0,
            fired: false,
        }
    }

    fn signal(code: i32, id: u32, value: u64) -> PendingSignal {
        let mut info = siginfo::without_cause(34);
        info[8..12].copy_from_slice(&code.to_le_bytes());
        info[16..20].copy_from_slice(&id.to_le_bytes());
        info[24..32].copy_from_slice(&value.to_le_bytes());
        PendingSignal {
            siginfo: ByteString(info.to_vec()),
        }
    }

    #[test]
    fn a_timer_claims_its_own_signal_once() {
        let mut timers = [timer(3, TimerNotify::Signal)];
        let mine = signal(libc::SI_TIMER, 3, 7);
        let mut queue = vec![mine.clone(), mine.clone(), signal(libc::SI_QUEUE, 3, 7)];
        claim(&mut queue, None, &mut timers);
        assert!(timers[0].fired);
        assert_eq!(queue, [mine, signal(libc::SI_QUEUE, 3, 7)]);
    }

    #[test]
    fn forged_and_foreign_signals_stay() {
        let mut timers = [timer(3, TimerNotify::Thread { tid: 5 })];
        let mut queue = vec![signal(libc::SI_TIMER, 3, 8), signal(libc::SI_TIMER, 3, 7)];
        claim(&mut queue, None, &mut timers);
        assert_eq!(queue.len(), 2);
        claim(&mut queue, Some(5), &mut timers);
        assert_eq!(queue.len(), 1);
        assert!(timers[0].fired);
    }

    #[test]
    fn owners_of_cpu_clocks() {
        let process = (!1234i32 << 3) | 2;
        assert_eq!(cpu_clock_owner(process), Some((1234, false)));
        assert_eq!(cpu_clock_owner(thread_cpu_clock(77)), Some((77, true)));
        assert_eq!(cpu_clock_owner(-2), Some((0, true)));
        assert_eq!(cpu_clock_owner(-6), Some((0, false)));
        assert_eq!(cpu_clock_owner(libc::CLOCK_MONOTONIC), None);
    }
}
