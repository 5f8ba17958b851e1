//! Signal actions and queued signals.

use super::numbers::{count, id, signal};
use super::problem::{At, CheckError, Found, Object, Problem};
use crate::checkpoint::Checkpoint;
use crate::signals::{PendingSignal, SigHandState};

/// Bytes of a siginfo.
const SIGINFO_SIZE: usize = 128;

/// More than RLIMIT_SIGPENDING ever allows.
const MAX_PENDING: usize = 1 << 22;

pub(super) fn check_hands(image: &Checkpoint) -> Result<(), CheckError> {
    for (place, hand) in image.sig_hands.iter().enumerate() {
        let object = Object::SigHand(hand.id.0);
        id(hand.id.0, place).at(object)?;
        actions(hand).at(object)?;
    }
    Ok(())
}

fn actions(hand: &SigHandState) -> Found {
    let mut last = 0;
    for action in &hand.actions {
        signal(action.signal)?;
        if action.signal <= last {
            let (what, value) = ("action of signal", u64::from(action.signal));
            return Err(Problem::Order { what, value });
        }
        last = action.signal;
    }
    Ok(())
}

/// A queue of signals.
pub(super) fn pending(queue: &[PendingSignal]) -> Found {
    count("queued signals", queue.len(), 0..=MAX_PENDING)?;
    for queued in queue {
        let bytes = &queued.siginfo.0;
        count("bytes of siginfo", bytes.len(), SIGINFO_SIZE..=SIGINFO_SIZE)?;
        if let Some(number) = bytes.first_chunk::<4>() {
            signal(u32::from_le_bytes(*number))?;
        }
    }
    Ok(())
}
