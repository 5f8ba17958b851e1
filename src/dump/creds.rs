//! Credentials of a thread: from its status, and securebits from inside.

use icecore_images::creds::CredsState;
use linux_raw_sys::prctl::PR_GET_SECUREBITS;

use crate::kernel::status::Status;
use crate::tracer::{Call, Outcome, Script};

/// What the status tells; securebits are missing.
pub(super) fn collect(status: &Status) -> CredsState {
    let [inheritable, permitted, effective, bounding, ambient] = status.caps;
    CredsState {
        uids: status.uids,
        gids: status.gids,
        groups: status.groups.clone(),
        cap_inheritable: inheritable,
        cap_permitted: permitted,
        cap_effective: effective,
        cap_bounding: bounding,
        cap_ambient: ambient,
        securebits: 0,
        no_new_privs: status.no_new_privs,
    }
}

/// Securebits, keepcaps among them, are told to the thread itself alone.
pub(super) fn ask(script: &mut Script) -> Call {
    let args = [u64::from(PR_GET_SECUREBITS)];
    script.call("read securebits", libc::SYS_prctl as u32, args)
}

/// Takes the answer to [`ask`].
pub(super) fn answer(creds: &mut CredsState, asked: Call, outcome: &Outcome) {
    creds.securebits = outcome.result(asked).unwrap_or_default() as u32;
}
