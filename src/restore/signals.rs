//! Signal actions, alternate stacks and queued signals.
//!
//! The kernel lets a thread queue any siginfo for itself, and only for itself:
//! each queue is filled by its owner. Setting an action that ignores a signal
//! throws queued ones away: actions come first.

use icecore_images::signals::{PendingSignal, SigAction, SigAltStack};

use crate::kernel::siginfo;
use crate::tracer::{Script, args};

const SIGSET_LEN: u64 = 8;

/// Blocks every signal there is: glibc's own two, which its functions leave
/// alone, and SIGTRAP, which a breakpoint has unblocked. The final mask is set
/// by ptrace.
pub(super) fn block_all(script: &mut Script) {
    let all = script.bytes(&u64::MAX.to_le_bytes());
    let args = args![libc::SIG_SETMASK, all, 0, SIGSET_LEN];
    let nr = libc::SYS_rt_sigprocmask as u32;
    script.call("block all signals", nr, args);
}

/// Sets every action: those the image does not name are the default, which the
/// child of a Rust program does not have throughout (SIGPIPE, SIGSEGV).
pub(super) fn actions(actions: &[SigAction], script: &mut Script) {
    for signal in (1..=64).filter(|s| ![libc::SIGKILL, libc::SIGSTOP].contains(&(*s as i32))) {
        action(actions, signal, script);
    }
}

fn action(actions: &[SigAction], signal: u32, script: &mut Script) {
    let default = SigAction {
        signal,
        handler: 0,
        flags: 0,
        restorer: 0,
        mask: 0,
    };
    let action = actions
        .iter()
        .find(|a| a.signal == signal)
        .unwrap_or(&default);
    let words = [action.handler, action.flags, action.restorer, action.mask];
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let new = script.bytes(&bytes);
    script.call(
        format!("set the action of signal {signal}"),
        libc::SYS_rt_sigaction as u32,
        args![signal, new, 0, SIGSET_LEN],
    );
}

/// Sets the thread's alternate stack; always, as a clone has its maker's.
pub(super) fn alt_stack(stack: &SigAltStack, script: &mut Script) {
    let mut bytes = stack.sp.to_le_bytes().to_vec();
    bytes.extend(u64::from(stack.flags).to_le_bytes());
    bytes.extend(stack.size.to_le_bytes());
    let new = script.bytes(&bytes);
    let nr = libc::SYS_sigaltstack as u32;
    script.call("set the alternate stack", nr, args![new, 0]);
}

/// Queues signals for the whole task; runs in its leader.
pub(super) fn queue_shared(pid: u32, signals: &[PendingSignal], script: &mut Script) {
    for signal in signals {
        let number = siginfo::signal(&signal.siginfo.0);
        let info = script.bytes(&signal.siginfo.0);
        script.call(
            format!("queue signal {number}"),
            libc::SYS_rt_sigqueueinfo as u32,
            args![pid, number, info],
        );
    }
}

/// Queues signals for one thread; runs in that thread.
pub(super) fn queue(pid: u32, tid: u32, signals: &[PendingSignal], script: &mut Script) {
    for signal in signals {
        let number = siginfo::signal(&signal.siginfo.0);
        let info = script.bytes(&signal.siginfo.0);
        script.call(
            format!("queue signal {number} for the thread"),
            libc::SYS_rt_tgsigqueueinfo as u32,
            args![pid, tid, number, info],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_settable_signal_gets_an_action() {
        let mut script = Script::new();
        actions(&[], &mut script);
        assert_eq!(script.call_count(), 62);
    }
}
