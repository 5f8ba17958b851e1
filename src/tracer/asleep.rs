//! What a thread sleeps in, and for how long it has: read before it is
//! interrupted, because afterwards the kernel does not tell any more.
//!
//! The moment a thread fell asleep is `se.exec_start` of its `sched` file, by
//! the clock of the CPU it last ran on. These clocks differ by up to a second,
//! so it is compared with our own on the same CPU.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use icecore_images::thread::Registers;

use super::timeout;
use crate::kernel::proc_text::{field, hex, number, read as read_proc, words};
use crate::kernel::stat::Stat;

/// A system call a thread was asleep in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Asleep {
    /// Its number; for restart_syscall that of the call which is continued,
    /// where that could be told.
    pub(super) nr: i64,
    /// Whether it is being continued after an earlier interruption.
    pub(super) continued: bool,
    /// The instruction after it.
    ip: u64,
    /// When it fell asleep.
    since: Option<FellAsleep>,
}

/// When a thread fell asleep.
#[derive(Debug, Clone, Copy, PartialEq)]
struct FellAsleep {
    at: Instant,
    /// How often it had gone to sleep by then.
    times: u64,
}

impl Asleep {
    /// Whether it is the call that the registers show to be interrupted.
    pub(super) fn is_call_of(&self, registers: &Registers) -> bool {
        let nr = match self.continued {
            true => libc::SYS_restart_syscall,
            false => self.nr,
        };
        registers.rip == self.ip && registers.orig_rax as i64 == nr
    }

    /// For how long the thread `tid`, which has stood still since `at`, had
    /// slept.
    pub(super) fn slept(&self, tid: u32, at: Instant) -> Option<Duration> {
        let since = self.since?;
        let times = switches(&read_proc(tid, "sched").ok()?)?;
        // To stand still is to sleep once more. Any further sleep began after
        // we had looked: just now, as far as anyone can tell.
        Some(match times == since.times + 1 {
            true => at.saturating_duration_since(since.at),
            false => Duration::ZERO,
        })
    }
}

/// For each thread the call it is asleep in.
pub(super) fn read(tids: &[u32]) -> Vec<(u32, Option<Asleep>)> {
    let mut clocks = CpuClocks::default();
    tids.iter()
        .map(|&tid| (tid, of_thread(tid, Some(&mut clocks))))
        .collect()
}

fn of_thread(tid: u32, clocks: Option<&mut CpuClocks>) -> Option<Asleep> {
    let syscall = read_proc(tid, "syscall").ok()?;
    let mut syscall = words(&syscall);
    let nr = number(syscall.next()?)?;
    let first = syscall.next().and_then(hex).unwrap_or(0);
    let ip = hex(syscall.last()?)?;
    let continued = nr == libc::SYS_restart_syscall;
    let nr = match continued {
        true => continued_call(tid, first).unwrap_or(nr),
        false => nr,
    };
    let since = clocks
        .filter(|_| timeout::may_be_relative(nr))
        .and_then(|clocks| clocks.asleep_since(tid));
    Some(Asleep {
        nr,
        continued,
        ip,
        since,
    })
}

/// Which call restart_syscall continues, by where in the kernel it waits; its
/// arguments are still those of the call. (A continued nanosleep waits in a
/// function that has left no frame of its own.)
fn continued_call(tid: u32, first_argument: u64) -> Option<i64> {
    const CLOCKS: u64 = 16;
    let place = read_proc(tid, "wchan").ok()?;
    let place = String::from_utf8_lossy(&place);
    Some(match place.as_ref() {
        p if p.contains("futex") => libc::SYS_futex,
        p if p.contains("poll") => libc::SYS_poll,
        _ if first_argument < CLOCKS => libc::SYS_clock_nanosleep,
        _ => libc::SYS_nanosleep,
    })
}

/// For each CPU what its clock showed to us at a moment of ours.
#[derive(Debug, Default)]
struct CpuClocks(BTreeMap<usize, Option<(u64, Instant)>>);

impl CpuClocks {
    /// When a sleeping thread fell asleep.
    fn asleep_since(&mut self, tid: u32) -> Option<FellAsleep> {
        let sched = read_proc(tid, "sched").ok()?;
        let (fell_asleep, times) = (exec_start(&sched)?, switches(&sched)?);
        let cpu = last_cpu(&read_proc(tid, "stat").ok()?)?;
        let (shown, at) = (*self.0.entry(cpu).or_insert_with(|| clock_of(cpu)))?;
        // A clock that was read for another thread may show a time before.
        let ago = Duration::from_nanos(shown.saturating_sub(fell_asleep));
        let at = at.checked_sub(ago)?;
        Some(FellAsleep { at, times })
    }
}

/// Field 39 of stat; comm, which may hold anything, is field 2 and ends with
/// the last parenthesis.
fn last_cpu(stat: &[u8]) -> Option<usize> {
    let end = stat.iter().rposition(|&b| b == b')')?;
    number(words(&stat[end + 1..]).nth(39 - 3)?)
}

/// How often a thread has gone to sleep, by its `sched` file.
fn switches(sched: &[u8]) -> Option<u64> {
    const KEY: &str = "nr_voluntary_switches";
    let line = crate::kernel::proc_text::lines(sched).find(|l| l.starts_with(KEY.as_bytes()))?;
    let value = line.rsplit(|&b| b == b':').next()?;
    number(words(value).next()?)
}

/// `se.exec_start` of a `sched` file, nanoseconds; printed as milliseconds with
/// six decimals.
fn exec_start(sched: &[u8]) -> Option<u64> {
    let line = crate::kernel::proc_text::lines(sched).find(|l| l.starts_with(b"se.exec_start"))?;
    let text = String::from_utf8_lossy(field(line, "se.exec_start").unwrap_or(line)).into_owned();
    let (ms, fraction) = text.rsplit(':').next()?.trim().split_once('.')?;
    let fraction: u64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    Some(ms.parse::<u64>().ok()? * 1_000_000 + fraction)
}

/// What the clock of a CPU shows now. We have to run there to ask it.
fn clock_of(cpu: usize) -> Option<(u64, Instant)> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity, sched_yield};
    let allowed = sched_getaffinity(None).ok()?;
    if cpu >= CpuSet::MAX_CPU {
        return None;
    }
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only).ok()?;
    // Brings our own exec_start up to date.
    sched_yield();
    let at = Instant::now();
    let sched = std::fs::read("/proc/thread-self/sched");
    let restored = sched_setaffinity(None, &allowed);
    restored.ok()?;
    Some((exec_start(&sched.ok()?)?, at))
}

/// What a thread that does not stop is doing, for people.
pub(super) fn describe(tid: u32) -> String {
    let nr = of_thread(tid, None).map(|a| a.nr);
    match (nr, Stat::read(tid).map(|s| s.state)) {
        (Some(libc::SYS_vfork | libc::SYS_clone | libc::SYS_clone3), Ok(b'D')) => {
            "it waits for the child it has vforked to end or to execute a program".to_owned()
        }
        (Some(nr), Ok(b'D')) => {
            format!("it is in an uninterruptible sleep in system call {nr}")
        }
        (_, Ok(state)) => format!("its state is {}", state as char),
        (_, Err(_)) => "it has ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_fields_as_the_kernel_prints_them() {
        let sched = b"x (1, #threads: 1)\n-----\nse.exec_start                 :   44.500008\n";
        assert_eq!(exec_start(sched), Some(44_500_008));
        assert_eq!(exec_start(b"se.vruntime : 1.0\n"), None);
        let mut stat = b"7 (a) b) S ".to_vec();
        stat.extend(
            (4..=52)
                .map(|n| format!("{n} "))
                .collect::<String>()
                .bytes(),
        );
        assert_eq!(last_cpu(&stat), Some(39));
    }

    #[test]
    fn knows_for_how_long_a_thread_has_slept() -> std::io::Result<()> {
        let (tell, told) = std::sync::mpsc::channel();
        let sleeper = std::thread::spawn(move || {
            let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
            let _ = tell.send(tid);
            std::thread::sleep(Duration::from_millis(600));
        });
        let tid = told.recv().map_err(std::io::Error::other)?;
        std::thread::sleep(Duration::from_millis(300));
        let asleep = read(&[tid]).pop().and_then(|(_, a)| a);
        let asleep = asleep.ok_or(std::io::ErrorKind::NotFound)?;
        assert_eq!(asleep.nr, libc::SYS_clock_nanosleep);
        let since = asleep.since.ok_or(std::io::ErrorKind::Unsupported)?;
        let slept = since.at.elapsed();
        let off = slept.abs_diff(Duration::from_millis(300));
        assert!(off < Duration::from_millis(100), "{slept:?}");
        let _ = sleeper.join();
        Ok(())
    }
}
