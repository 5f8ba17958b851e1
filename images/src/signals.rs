//! Signal actions, alternate stacks and queued signals.

use serde::{Deserialize, Serialize};

use crate::bytes::ByteString;
use crate::ids::SigHandId;

/// A table of signal actions, shared by the threads of a task (and, with
/// CLONE_SIGHAND, by tasks).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigHandState {
    /// Its name in this image.
    pub id: SigHandId,
    /// Actions of signals 1 to 64, those that are not all zero (SIG_DFL).
    pub actions: Vec<SigAction>,
}

/// `struct kernel_sigaction` of x86_64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigAction {
    /// 1 to 64.
    pub signal: u32,
    /// Handler address, SIG_DFL (0) or SIG_IGN (1).
    pub handler: u64,
    /// SA_* flags.
    pub flags: u64,
    /// SA_RESTORER trampoline.
    pub restorer: u64,
    /// Signals blocked while the handler runs.
    pub mask: u64,
}

/// A queued signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingSignal {
    /// The 128 bytes of its siginfo (PTRACE_PEEKSIGINFO).
    #[serde(with = "crate::bytes::hex")]
    pub siginfo: ByteString,
}

/// `sigaltstack(2)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigAltStack {
    /// Lowest address.
    pub sp: u64,
    /// SS_* flags.
    pub flags: u32,
    /// Bytes.
    pub size: u64,
}
