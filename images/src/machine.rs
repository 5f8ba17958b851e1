//! The machine and the tool that made an image.

use serde::{Deserialize, Serialize};

use crate::bytes::ByteString;

/// Where an image was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineState {
    /// icecore's version.
    pub icecore: String,
    /// `uname -r`.
    pub kernel: ByteString,
    /// `uname -n`.
    pub host: ByteString,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: ByteString,
    /// CPU vendor and model, for messages.
    pub cpu: ByteString,
    /// XCR0: the extended-state components the machine had enabled.
    pub xcr0: u64,
    /// CPUID feature words, as `kernel::cpu` numbers them.
    pub cpu_features: Vec<u32>,
    /// Seconds since the epoch.
    pub created: i64,
    /// The command line or API call that made it, for people.
    pub command: Vec<ByteString>,
}
