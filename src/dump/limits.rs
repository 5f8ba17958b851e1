//! Resource limits and oom_score_adj.

use std::io;

use icecore_images::limits::Rlimit;

use crate::kernel::proc_text::{self, malformed, number};

/// Soft and hard limits, by RLIMIT_* number.
pub(super) fn collect(tid: u32) -> io::Result<Vec<Rlimit>> {
    crate::kernel::limits::read(tid)
}

/// `/proc/PID/oom_score_adj`.
pub(super) fn oom_score_adj(tid: u32) -> io::Result<i32> {
    number(&proc_text::read(tid, "oom_score_adj")?).ok_or_else(|| malformed("oom_score_adj"))
}
