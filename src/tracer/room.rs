//! Whether a target's memory cgroup has room for what a visit charges to it.
//!
//! A page that is charged to a cgroup without room makes the kernel end a task
//! in it: the target. So before anything is written into the target, what it
//! may take is compared with what is left.

use super::freeze::FrozenTask;
use crate::kernel::memcg;

/// What a visit charges beside its area: a copy of the page with the stub, page
/// tables, the kernel's own notes.
const BESIDE: u64 = 64 << 10;
/// Where as much is left, nothing that is visited for comes near the limit.
const AMPLE: u64 = 64 << 20;

/// The target's memory cgroup is full.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "its memory cgroup has {left} bytes left where icecore may need {needed}; the kernel would end it"
)]
pub struct NoRoom {
    /// Bytes.
    pub left: u64,
    /// Bytes.
    pub needed: u64,
}

impl NoRoom {
    /// What would help.
    pub const HELP: &str =
        "raise the limit of its cgroup (memory.limit_in_bytes or memory.max) for the dump";
}

impl FrozenTask {
    /// An error unless `bytes` more may be charged to the task.
    pub(super) fn room_for(&mut self, bytes: u64) -> Result<(), NoRoom> {
        let needed = bytes + BESIDE;
        if self.has_ample_room {
            return Ok(());
        }
        let tid = self.threads.first().map_or(self.pid, |t| t.tid);
        match memcg::headroom_of(tid) {
            Some(left) if left < needed => Err(NoRoom { left, needed }),
            left => {
                self.has_ample_room = left.is_none_or(|left| left > AMPLE);
                Ok(())
            }
        }
    }
}
