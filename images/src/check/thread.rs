//! Threads.

use super::numbers::{address, bits, count, ns_pids, one_of, owners, pid, refers, text, within};
use super::problem::Found;
use super::{signals, vma, xstate};
use crate::checkpoint::Checkpoint;
use crate::creds::CredsState;
use crate::prctl::ThreadControls;
use crate::sched::SchedState;
use crate::seccomp::SeccompState;
use crate::thread::{Registers, ThreadState};

pub(super) fn check(image: &Checkpoint, thread: &ThreadState) -> Found {
    pid("tid", thread.tid)?;
    ns_pids("tids in namespaces", &thread.ns_tids)?;
    text("name", &thread.comm, 15)?;
    registers(&thread.registers)?;
    xstate::check(&thread.xstate)?;
    signals::pending(&thread.pending)?;
    creds(&thread.creds)?;
    if let Some(rseq) = &thread.rseq {
        address("rseq area", rseq.address)?;
    }
    seccomp(image, &thread.seccomp)?;
    sched(&thread.sched)?;
    controls(&thread.controls)?;
    match thread.cgroups {
        Some(set) => refers("set of cgroups", set.0, image.cgroups.sets.len()),
        None => Ok(()),
    }
}

/// Only 64-bit code runs here. What else a register may hold is for the kernel
/// to say, which refuses or ends the task, but harms nobody else.
fn registers(r: &Registers) -> Found {
    one_of("cs", r.cs, &[0x33])?;
    one_of("ss", r.ss, &[0x2b])?;
    address("fs_base", r.fs_base)?;
    address("gs_base", r.gs_base)?;
    address("rip", r.rip)
}

fn creds(creds: &CredsState) -> Found {
    owners(&creds.uids)?;
    owners(&creds.gids)?;
    owners(&creds.groups)?;
    count("groups", creds.groups.len(), 0..=1 << 16)?;
    bits("securebits", u64::from(creds.securebits), 0xff)
}

fn seccomp(image: &Checkpoint, seccomp: &SeccompState) -> Found {
    let SeccompState::Filter(ids) = seccomp else {
        return Ok(());
    };
    // MAX_INSNS_PER_PATH, at five instructions a filter and up.
    count("seccomp filters", ids.len(), 1..=1 << 13)?;
    ids.iter()
        .try_for_each(|id| refers("seccomp filter", id.0, image.seccomp_filters.len()))
}

fn sched(sched: &SchedState) -> Found {
    // SCHED_OTHER to SCHED_EXT.
    within("scheduling policy", sched.policy, 0..=7)?;
    within("nice value", sched.nice, -20..=19)?;
    within("static priority", sched.priority, 0..=99)?;
    count("bytes of affinity", sched.affinity.len(), 0..=1024)?;
    within("I/O priority", sched.io_priority, 0..=0xffff)?;
    // SCHED_CAPACITY_SCALE; u32::MAX: reset.
    for clamp in [sched.util_min, sched.util_max].into_iter().flatten() {
        if clamp != u32::MAX {
            within("utilisation clamp", clamp, 0..=1024)?;
        }
    }
    Ok(())
}

fn controls(controls: &ThreadControls) -> Found {
    within("parent-death signal", controls.parent_death_signal, 0..=64)?;
    within("TSC mode", controls.tsc, 0..=2)?;
    within("machine-check policy", controls.mce_kill, 0..=2)?;
    vma::numa(&controls.numa)
}
