//! What prctl(2), arch_prctl(2) and their kin keep for a task or a thread.

use icecore_images::prctl::{MmControls, NumaPolicy, TaskControls, ThreadControls};
use icecore_images::task::TaskState;
use icecore_images::thread::ThreadState;
use linux_raw_sys::prctl as pr;

use super::RestoreContext;
use crate::blocker::Place;
use crate::kernel::capability::{self, CAP_SYS_RESOURCE};
use crate::kernel::prctl::*;
use crate::tracer::{Script, args};

const PRCTL: u32 = libc::SYS_prctl as u32;
const ARCH_PRCTL: u32 = libc::SYS_arch_prctl as u32;
const MPOL_DEFAULT: u32 = 0;
const MCE_KILL_DEFAULT: u32 = 2;
const SPECULATION: [&str; 3] = ["store bypass", "indirect branches", "L1D flush"];
/// Extended-state components that need no permission: all below AMX's data.
const FIRST_DYNAMIC_COMPONENT: u32 = 18;

/// Addresses the kernel was told, and the thread's name.
pub(super) fn registrations(thread: &ThreadState, script: &mut Script) {
    let name = script.c_string(&thread.comm.0);
    script.call("set the name", PRCTL, args![pr::PR_SET_NAME, name]);
    let nr = libc::SYS_set_tid_address as u32;
    script.call("set the tid address", nr, args![thread.clear_child_tid]);
    let list = thread.robust_list;
    if list.head != 0 {
        let nr = libc::SYS_set_robust_list as u32;
        script.call("set the robust list", nr, args![list.head, list.len]);
    }
    if let Some(rseq) = thread.rseq {
        let args = args![rseq.address, rseq.len, rseq.flags, rseq.signature];
        script.call("register rseq", libc::SYS_rseq as u32, args);
    }
}

/// Controls of a thread, apart from the parent-death signal.
pub(super) fn thread(then: &ThreadControls, script: &mut Script) {
    let nr = libc::SYS_personality as u32;
    script.call("set the personality", nr, args![then.personality]);
    if then.tsc == pr::PR_TSC_SIGSEGV {
        script.call("let RDTSC fault", PRCTL, args![pr::PR_SET_TSC, then.tsc]);
    }
    if then.cpuid == Some(false) {
        script.call("let CPUID fault", ARCH_PRCTL, args![ARCH_SET_CPUID, 0]);
    }
    if then.mce_kill != MCE_KILL_DEFAULT {
        let args = args![PR_MCE_KILL, PR_MCE_KILL_SET, then.mce_kill, 0, 0];
        script.call("set the machine-check policy", PRCTL, args);
    }
    for (feature, value) in then.speculation.into_iter().enumerate() {
        let here = speculation(feature as u32);
        if value & here & pr::PR_SPEC_PRCTL != 0 && here != value {
            let what = format!("control speculation ({})", SPECULATION[feature]);
            let bits = value & !pr::PR_SPEC_PRCTL;
            let args = args![pr::PR_SET_SPECULATION_CTRL, feature, bits, 0, 0];
            script.call(what, PRCTL, args);
        }
    }
    if then.io_flusher {
        let args = args![pr::PR_SET_IO_FLUSHER, 1, 0, 0, 0];
        script.call("become an I/O flusher", PRCTL, args);
    }
    numa(&then.numa, script);
}

/// The kernel counts one bit more than the mask has. A kernel without NUMA has
/// nothing but the default.
fn numa(policy: &NumaPolicy, script: &mut Script) {
    let nr = libc::SYS_set_mempolicy as u32;
    if policy.mode == MPOL_DEFAULT {
        script.try_call("set the default NUMA policy", nr, args![MPOL_DEFAULT, 0, 0]);
        return;
    }
    let bytes: Vec<u8> = policy.nodes.iter().flat_map(|w| w.to_le_bytes()).collect();
    let mask = script.bytes(&bytes);
    let bits = policy.nodes.len() * 64 + 1;
    script.call("set the NUMA policy", nr, args![policy.mode, mask, bits]);
}

/// After the credentials, which clear it.
pub(super) fn parent_death_signal(then: &ThreadControls, script: &mut Script) {
    let args = args![pr::PR_SET_PDEATHSIG, then.parent_death_signal];
    script.call("set the parent-death signal", PRCTL, args);
}

/// What the task and its address space have that hinders nothing to come.
pub(super) fn task(then: &TaskControls, script: &mut Script) {
    let args = args![pr::PR_SET_CHILD_SUBREAPER, u32::from(then.child_subreaper)];
    script.call("set child subreaper", PRCTL, args);
    let dynamic = FIRST_DYNAMIC_COMPONENT..64;
    for component in dynamic.filter(|c| then.xcomp_permission & (1 << c) != 0) {
        let what = format!("get permission for extended state {component}");
        script.call(what, ARCH_PRCTL, args![ARCH_REQ_XCOMP_PERM, component]);
    }
    for bit in (0..32).filter(|bit| then.membarrier & (1 << bit) != 0) {
        let what = format!("register for membarrier {bit}");
        let nr = libc::SYS_membarrier as u32;
        script.call(what, nr, args![1u32 << bit, 0, 0]);
    }
}

/// After the credentials, which clear it. 2 cannot be asked for: it is what a
/// change of credentials leaves.
pub(super) fn dumpable(then: &MmControls, script: &mut Script) {
    if then.dumpable < 2 {
        let args = args![pr::PR_SET_DUMPABLE, then.dumpable, 0, 0, 0];
        script.call("set dumpable", PRCTL, args);
    }
}

/// PR_GET_SPECULATION_CTRL of icecore, which its children have.
fn speculation(feature: u32) -> u32 {
    get(pr::PR_GET_SPECULATION_CTRL, feature.into()).unwrap_or(0)
}

/// Notes what this kernel or icecore's privileges cannot give.
pub(super) fn plan(ctx: &mut RestoreContext<'_>, task: &TaskState) {
    for thread in &task.threads {
        let place = Place::Thread {
            pid: task.pid,
            tid: thread.tid,
        };
        if thread.controls.io_flusher && !capability::have(CAP_SYS_RESOURCE) {
            let problem = "it is an I/O flusher (PR_SET_IO_FLUSHER), which needs CAP_SYS_RESOURCE";
            let help = Some("run icecore with CAP_SYS_RESOURCE");
            ctx.obstacle(place.clone(), problem.to_owned(), help);
        }
        for (feature, value) in thread.controls.speculation.into_iter().enumerate() {
            let here = speculation(feature as u32);
            let settable = here & pr::PR_SPEC_PRCTL != 0 || here == value;
            if value & pr::PR_SPEC_PRCTL != 0 && !settable {
                ctx.notes.push(format!(
                    "{place} controlled speculation ({}), which this machine does not offer",
                    SPECULATION[feature]
                ));
            }
        }
    }
    let mm = ctx.image.mms.iter().find(|mm| mm.id == task.mm);
    if mm.is_some_and(|mm| mm.controls.dumpable == 2) {
        ctx.notes.push(format!(
            "pid {} was dumpable for root alone (2), which follows from this machine's \
             fs.suid_dumpable now",
            task.pid
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_thread_takes_two_steps() {
        let usual = ThreadControls {
            tsc: 1,
            mce_kill: MCE_KILL_DEFAULT,
            ..ThreadControls::default()
        };
        let mut script = Script::new();
        thread(&usual, &mut script);
        assert_eq!(script.call_count(), 2, "personality and NUMA policy");
    }

    #[test]
    fn dumpable_for_root_alone_is_left_to_the_kernel() {
        let controls = MmControls {
            dumpable: 2,
            ..MmControls::default()
        };
        let mut script = Script::new();
        dumpable(&controls, &mut script);
        assert!(script.is_empty());
    }
}
