//! Restore: `plan → spawn → rebuild → remap → resume`.

pub(crate) mod descriptors;
pub(crate) mod file_ref;
pub(crate) mod ghost;
pub(crate) mod memory;
pub(crate) mod state;

use icecore_images::Checkpoint;

use crate::blocker::{Obstacle, Place};
use crate::error::RestoreError;
use crate::options::RestoreOptions;
use crate::stats::{RestoreReport, RestoreStats};

/// Wakes the tasks up. Returns once they run; a root task that is neither
/// detached nor a sibling is a child of this process, to be waited for.
pub(crate) fn run(options: &RestoreOptions) -> Result<RestoreReport, RestoreError> {
    let _ = options;
    unimplemented!("stages")
}

/// What the stages of a restore share.
#[derive(Debug)]
pub(crate) struct RestoreContext<'a> {
    pub(crate) options: &'a RestoreOptions,
    /// The verified image.
    pub(crate) image: &'a Checkpoint,
    /// Everything that stands in the way; reported together.
    pub(crate) obstacles: Vec<Obstacle>,
    /// Deviations that do not stop a restore but are said aloud.
    pub(crate) notes: Vec<String>,
    pub(crate) stats: RestoreStats,
}

impl RestoreContext<'_> {
    /// Notes something that stands in the way.
    pub(crate) fn obstacle(&mut self, place: Place, problem: String, help: Option<&str>) {
        self.obstacles.push(Obstacle {
            place,
            problem,
            help: help.map(str::to_owned),
        });
    }
}
