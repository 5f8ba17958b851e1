//! How long a stage takes.

use std::time::Instant;

/// Running since it was started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts one.
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// Microseconds since then.
    pub(super) fn micros(self) -> u64 {
        super::micros(self.0.elapsed())
    }
}
