//! What prctl(2), arch_prctl(2) and their kin keep for a task or a thread.

use std::io;

use icecore_images::prctl::{NumaPolicy, TaskControls, ThreadControls};
use linux_raw_sys::prctl as pr;

use crate::kernel::prctl::*;
use crate::kernel::proc_text::{self, hex, malformed};
use crate::kernel::stat::{PF_LOCAL_THROTTLE, PF_MEMALLOC_NOIO, Stat};
use crate::tracer::{Buffer, Call, Outcome, Script, args};

const PRCTL: u32 = libc::SYS_prctl as u32;
const ARCH_PRCTL: u32 = libc::SYS_arch_prctl as u32;
/// More nodes than any kernel is built for (CONFIG_NODES_SHIFT ≤ 10).
const NODES: u64 = 1024;

/// The question for what a thread has.
#[derive(Debug)]
pub(super) struct ThreadAsked {
    parent_death_signal: Buffer,
    tsc: Buffer,
    tid_address: Buffer,
    cpuid: Call,
    mce: Call,
    speculation: [Call; 3],
    numa_mode: Buffer,
    numa_nodes: Buffer,
    numa: Call,
    keyring: Call,
    timer_slack: Call,
}

/// Asks for what the thread alone can tell.
pub(super) fn ask_thread(script: &mut Script) -> ThreadAsked {
    let numa_mode = script.buffer(4);
    let numa_nodes = script.buffer(NODES as usize / 8);
    ThreadAsked {
        parent_death_signal: get(script, "read the parent-death signal", pr::PR_GET_PDEATHSIG),
        tsc: get(script, "read whether RDTSC faults", pr::PR_GET_TSC),
        tid_address: get(script, "read the tid address", pr::PR_GET_TID_ADDRESS),
        cpuid: script.try_call("read whether CPUID faults", ARCH_PRCTL, [ARCH_GET_CPUID]),
        mce: script.call("read the machine-check policy", PRCTL, [PR_MCE_KILL_GET]),
        speculation: [0u32, 1, 2].map(|feature| {
            let args = args![pr::PR_GET_SPECULATION_CTRL, feature];
            script.try_call("read speculation control", PRCTL, args)
        }),
        numa_mode,
        numa_nodes,
        numa: script.try_call(
            "read the NUMA policy",
            libc::SYS_get_mempolicy as u32,
            args![numa_mode, numa_nodes, NODES],
        ),
        keyring: ask_keyring(script, KEY_SPEC_THREAD_KEYRING),
        timer_slack: script.call("read the timer slack", PRCTL, [pr::PR_GET_TIMERSLACK]),
    }
}

fn get(script: &mut Script, what: &'static str, option: u32) -> Buffer {
    let value = script.buffer(8);
    script.call(what, PRCTL, args![option, value]);
    value
}

fn ask_keyring(script: &mut Script, which: i32) -> Call {
    let args = args![KEYCTL_GET_KEYRING_ID, which, 0];
    script.try_call("look for a keyring", libc::SYS_keyctl as u32, args)
}

impl ThreadAsked {
    /// The thread's controls; personality and IO_FLUSHER come from /proc.
    pub(super) fn answer(&self, outcome: &Outcome, controls: &mut ThreadControls) {
        controls.parent_death_signal = outcome.u32_at(self.parent_death_signal, 0);
        controls.tsc = outcome.u32_at(self.tsc, 0);
        controls.cpuid = outcome.result(self.cpuid).ok().map(|on| on != 0);
        controls.mce_kill = outcome.result(self.mce).unwrap_or_default() as u32;
        controls.speculation = self
            .speculation
            .map(|asked| outcome.result(asked).unwrap_or_default() as u32);
        if outcome.result(self.numa).is_ok() {
            controls.numa = numa_policy(
                outcome.u32_at(self.numa_mode, 0),
                outcome.buffer(self.numa_nodes),
            );
        }
    }

    /// `set_tid_address`.
    pub(super) fn tid_address(&self, outcome: &Outcome) -> u64 {
        outcome.u64_at(self.tid_address, 0)
    }

    /// Nanoseconds.
    pub(super) fn timer_slack(&self, outcome: &Outcome) -> u64 {
        outcome.result(self.timer_slack).unwrap_or_default()
    }

    /// Whether the thread has a keyring of its own.
    pub(super) fn has_keyring(&self, outcome: &Outcome) -> bool {
        outcome.result(self.keyring).is_ok()
    }
}

fn numa_policy(mode: u32, mask: &[u8]) -> NumaPolicy {
    let mut nodes: Vec<u64> = mask
        .chunks_exact(8)
        .map(|w| w.iter().rev().fold(0, |word, b| word << 8 | u64::from(*b)))
        .collect();
    while nodes.last() == Some(&0) {
        nodes.pop();
    }
    NumaPolicy { mode, nodes }
}

/// PR_GET_IO_FLUSHER wants CAP_SYS_RESOURCE; the flags it stands for are shown
/// to all.
pub(super) fn io_flusher(stat: &Stat) -> bool {
    const BOTH: u64 = PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE;
    stat.flags & BOTH == BOTH
}

/// `/proc/PID/personality`.
pub(super) fn personality(tid: u32) -> io::Result<u32> {
    hex(&proc_text::read(tid, "personality")?)
        .map(|p| p as u32)
        .ok_or_else(|| malformed("personality"))
}

/// The question for what a task has.
#[derive(Debug)]
pub(super) struct TaskAsked {
    subreaper: Buffer,
    xcomp: Buffer,
    untag: Buffer,
    untag_known: Call,
    restore_ids: Call,
    membarrier: Call,
    private_expedited: Call,
    ldt: Call,
    keyring: Call,
}

/// Asks for what any one thread can tell for all.
pub(super) fn ask_task(script: &mut Script) -> TaskAsked {
    let xcomp = script.buffer(8);
    let untag = script.buffer(8);
    let ldt = script.buffer(64);
    let membarrier = libc::SYS_membarrier as u32;
    let arch = |code: u64, to: Buffer| args![code, to];
    script.try_call(
        "read the extended-state permission",
        ARCH_PRCTL,
        arch(ARCH_GET_XCOMP_PERM, xcomp),
    );
    TaskAsked {
        subreaper: get(script, "read child subreaper", pr::PR_GET_CHILD_SUBREAPER),
        xcomp,
        untag,
        untag_known: script.try_call(
            "read the address mask",
            ARCH_PRCTL,
            arch(ARCH_GET_UNTAG_MASK, untag),
        ),
        restore_ids: optional(script, pr::PR_TIMER_CREATE_RESTORE_IDS, 2),
        membarrier: script.try_call(
            "read membarrier registrations",
            membarrier,
            [MEMBARRIER_GET_REGISTRATIONS],
        ),
        private_expedited: script.try_call(
            "try a private membarrier",
            membarrier,
            [MEMBARRIER_PRIVATE_EXPEDITED],
        ),
        ldt: script.try_call(
            "look for LDT entries",
            libc::SYS_modify_ldt as u32,
            args![0, ldt, 64],
        ),
        keyring: ask_keyring(script, KEY_SPEC_PROCESS_KEYRING),
    }
}

/// A prctl that returns its answer and may be newer than the kernel.
fn optional(script: &mut Script, option: u32, arg: u64) -> Call {
    script.try_call("read a prctl", PRCTL, args![option, arg, 0, 0, 0])
}

impl TaskAsked {
    /// What belongs to the task.
    pub(super) fn task(&self, outcome: &Outcome) -> TaskControls {
        TaskControls {
            child_subreaper: outcome.u32_at(self.subreaper, 0) != 0,
            xcomp_permission: outcome.u64_at(self.xcomp, 0),
            membarrier: self.membarrier(outcome),
            timer_restore_ids: outcome.result(self.restore_ids) == Ok(1),
        }
    }

    /// Before 6.3 registrations cannot be read, but the common one can be
    /// tried: it is refused to who has not registered.
    fn membarrier(&self, outcome: &Outcome) -> u32 {
        match outcome.result(self.membarrier) {
            Ok(registered) => registered as u32,
            Err(_) if outcome.result(self.private_expedited).is_ok() => {
                MEMBARRIER_REGISTER_PRIVATE_EXPEDITED
            }
            Err(_) => 0,
        }
    }

    /// What the task has that cannot be carried.
    pub(super) fn refused(&self, outcome: &Outcome) -> Vec<&'static str> {
        let ldt = matches!(outcome.result(self.ldt), Ok(len) if len > 0);
        let tagged =
            outcome.result(self.untag_known).is_ok() && outcome.u64_at(self.untag, 0) != u64::MAX;
        let keyring = outcome.result(self.keyring).is_ok();
        [
            (ldt, "it has entries in its LDT (modify_ldt)"),
            (tagged, "it uses tagged addresses (ARCH_ENABLE_TAGGED_ADDR)"),
            (
                keyring,
                "it has a process keyring, whose keys cannot be read",
            ),
        ]
        .into_iter()
        .filter_map(|(there, what)| there.then_some(what))
        .collect()
    }
}

/// `/proc/PID/loginuid`; unset in a kernel without audit.
pub(super) fn login_uid(tid: u32) -> io::Result<u32> {
    match proc_text::read_if_there(tid, "loginuid")? {
        Some(text) => proc_text::number(&text).ok_or_else(|| malformed("loginuid")),
        None => Ok(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_masks_lose_their_trailing_zeros() {
        let mut mask = [0; 128];
        mask[0] = 1;
        mask[9] = 2;
        let policy = numa_policy(3, &mask);
        assert_eq!(policy.mode, 3);
        assert_eq!(policy.nodes, [1, 2 << 8]);
        assert_eq!(numa_policy(0, &[0; 128]).nodes, [0u64; 0]);
    }

    #[test]
    fn our_own_files_read() -> io::Result<()> {
        let me = std::process::id();
        personality(me)?;
        login_uid(me)?;
        assert!(!io_flusher(&Stat::read(me)?));
        Ok(())
    }
}
