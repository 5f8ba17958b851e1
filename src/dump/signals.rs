//! Signal actions, alternate stacks, masks and queued signals.

use std::io;

use icecore_images::ByteString;
use icecore_images::signals::{PendingSignal, SigAction, SigAltStack};

use crate::kernel::siginfo;
use crate::tracer::{Buffer, Outcome, Script, args, peek};

/// Signals there are.
const SIGNALS: std::ops::RangeInclusive<u32> = 1..=64;
/// Bytes of the kernel's signal set.
const SIGSET_LEN: u64 = 8;
/// Bytes of a `struct kernel_sigaction`: handler, flags, restorer, mask.
const ACTION_LEN: usize = 32;

/// The question for all signal actions of a task.
#[derive(Debug)]
pub(super) struct ActionsAsked(Vec<(u32, Buffer)>);

/// Asks for the actions; all threads share them.
pub(super) fn ask_actions(script: &mut Script) -> ActionsAsked {
    let settable = SIGNALS.filter(|s| ![libc::SIGKILL as u32, libc::SIGSTOP as u32].contains(s));
    ActionsAsked(
        settable
            .map(|signal| {
                let old = script.buffer(ACTION_LEN);
                let what = format!("read the action of signal {signal}");
                let nr = libc::SYS_rt_sigaction as u32;
                script.call(what, nr, args![signal, 0, old, SIGSET_LEN]);
                (signal, old)
            })
            .collect(),
    )
}

impl ActionsAsked {
    /// The actions that are not the default with nothing set.
    pub(super) fn answer(&self, outcome: &Outcome) -> Vec<SigAction> {
        let action = |&(signal, old): &(u32, Buffer)| SigAction {
            signal,
            handler: outcome.u64_at(old, 0),
            flags: outcome.u64_at(old, 8),
            restorer: outcome.u64_at(old, 16),
            mask: outcome.u64_at(old, 24),
        };
        let set = |a: &SigAction| (a.handler, a.flags, a.restorer, a.mask) != (0, 0, 0, 0);
        self.0.iter().map(action).filter(set).collect()
    }
}

/// Asks for the thread's alternate stack: `stack_t` is pointer, flags, padding,
/// size.
pub(super) fn ask_alt_stack(script: &mut Script) -> Buffer {
    let old = script.buffer(24);
    let nr = libc::SYS_sigaltstack as u32;
    script.call("read the alternate stack", nr, args![0, old]);
    old
}

/// Takes the answer to [`ask_alt_stack`]. SS_ONSTACK says where the parasite
/// ran, not what the thread had set.
pub(super) fn answer_alt_stack(asked: Buffer, outcome: &Outcome) -> SigAltStack {
    SigAltStack {
        sp: outcome.u64_at(asked, 0),
        flags: outcome.u32_at(asked, 8) & !(libc::SS_ONSTACK as u32),
        size: outcome.u64_at(asked, 16),
    }
}

/// The signals queued for a thread or (`shared`) its task, in queue order.
pub(super) fn queued(tid: u32, shared: bool) -> io::Result<Vec<PendingSignal>> {
    let pending = |info: [u8; 128]| PendingSignal {
        siginfo: ByteString(info.to_vec()),
    };
    let signals = peek::queued_signals(tid, shared)?;
    Ok(signals.into_iter().map(pending).collect())
}

/// Adds what is pending, as the mask from the status says, but not queued: a
/// signal that could not be queued for want of memory or under
/// RLIMIT_SIGPENDING is pending without a siginfo, and delivered with an empty
/// one. What has only just arrived is queued with its own.
pub(super) fn complete(
    queue: &mut Vec<PendingSignal>,
    tid: u32,
    shared: bool,
    pending: u64,
) -> io::Result<()> {
    if pending & !mask_of(queue) != 0 {
        *queue = queued(tid, shared)?;
    }
    let missing = pending & !mask_of(queue);
    for signal in SIGNALS.filter(|s| missing & (1 << (s - 1)) != 0) {
        queue.push(PendingSignal {
            siginfo: ByteString(siginfo::without_cause(signal).to_vec()),
        });
    }
    Ok(())
}

fn mask_of(queue: &[PendingSignal]) -> u64 {
    let masks = queue.iter().map(|s| siginfo::mask_of(&s.siginfo.0));
    masks.fold(0, |all, mask| all | mask)
}
