//! Scheduling, each thread its own.

use crate::harness::{Stage, Victim};
use crate::sys::{Threads, at, call, prctl, same, to};

pub(crate) fn victims() -> Vec<Victim> {
    vec![Victim::new("sched", sched).check(|outside| {
        let policies = outside.matching("thread/*/stat/policy");
        let policies: std::collections::BTreeSet<&str> = policies.map(|(_, p)| p).collect();
        match policies.len() {
            5.. => Ok(()),
            _ => Err(format!("only policies {policies:?}")),
        }
    })]
}

/// `struct sched_attr` as words of 32 bits.
type Attr = [u32; 14];

fn attr() -> Result<Attr, String> {
    let mut attr: Attr = [0; 14];
    let args = [0, to(&mut attr), 56, 0];
    call("sched_getattr", libc::SYS_sched_getattr, &args)?;
    Ok(attr)
}

fn set(policy: i32, flags: u32, nice: i32, priority: u32, times: [u64; 3]) -> Result<(), String> {
    let mut attr: Attr = [0; 14];
    (attr[0], attr[1], attr[2]) = (56, policy as u32, flags);
    (attr[4], attr[5]) = (nice as u32, priority);
    for (n, time) in times.into_iter().enumerate() {
        (attr[6 + 2 * n], attr[7 + 2 * n]) = (time as u32, (time >> 32) as u32);
    }
    let args = [0, at(&attr), 0];
    call(
        &format!("sched_setattr({policy})"),
        libc::SYS_sched_setattr,
        &args,
    )
    .map(drop)
}

const RESET_ON_FORK: u32 = 1;

/// Everything that can be asked: attributes, affinity, I/O priority, slack.
fn all() -> Result<(Attr, u64, u64, u64), String> {
    let mut cpus = [0_u64; 128];
    let args = [0, 1024, to(&mut cpus)];
    call("sched_getaffinity", libc::SYS_sched_getaffinity, &args)?;
    let io = call("ioprio_get", libc::SYS_ioprio_get, &[1, 0])?;
    let slack = prctl("timer slack", &[30])?;
    Ok((attr()?, cpus[0], io, slack))
}

fn sched(stage: &mut Stage) -> Result<(), String> {
    type Setting = fn() -> Result<(), String>;
    let settings: [Setting; 9] = [
        || set(libc::SCHED_FIFO, 0, 0, 5, [0; 3]),
        || set(libc::SCHED_RR, RESET_ON_FORK, 0, 7, [0; 3]),
        || set(libc::SCHED_BATCH, 0, 9, 0, [0; 3]),
        || set(libc::SCHED_IDLE, 0, 0, 0, [0; 3]),
        || set(libc::SCHED_OTHER, RESET_ON_FORK, -5, 0, [0; 3]),
        // A slice of one's own (6.12).
        || set(libc::SCHED_OTHER, 0, 3, 0, [7_000_000, 0, 0]),
        || {
            set(
                libc::SCHED_DEADLINE,
                0,
                0,
                0,
                [1_000_000, 10_000_000, 20_000_000],
            )
        },
        || {
            prctl("timer slack", &[29, 123_456])?;
            let one = 1_u64;
            let args = [0, 8, at(&one)];
            call("sched_setaffinity", libc::SYS_sched_setaffinity, &args)?;
            call("ioprio_set", libc::SYS_ioprio_set, &[1, 0, 2 << 13 | 6]).map(drop)
        },
        || call("ioprio_set", libc::SYS_ioprio_set, &[1, 0, 1 << 13 | 2]).map(drop),
    ];
    let mut threads = Threads::new();
    for setting in settings {
        threads.spawn(move || {
            setting()?;
            let before = all()?;
            Ok(Box::new(move || same("scheduling", &all()?, &before)))
        })?;
    }
    std::fs::write("/proc/self/autogroup", "7").map_err(|e| format!("autogroup: {e}"))?;
    while stage.next()? {
        threads.check()?;
    }
    Ok(())
}
