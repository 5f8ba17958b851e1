//! Semantic checks: what decodes may still make no sense. After
//! [`Checkpoint::check`] ids refer to something, counts and numbers lie in the
//! ranges the kernel knows, areas and extents are in order, and paths are
//! paths; nothing that reads an image has to look again.
//!
//! Tables come first, what refers to them later, so that a reference may be
//! followed once its table has been checked.

mod cgroup;
mod connection;
mod descriptors;
mod files;
mod inet;
mod lock;
mod machine;
mod memory;
mod numbers;
mod pages;
mod problem;
mod signals;
mod tables;
mod task;
mod tcp;
mod thread;
mod timers;
mod unix;
mod vma;
mod xstate;

pub use problem::{CheckError, Object, Problem};

use crate::checkpoint::Checkpoint;

/// First address that no area of a task reaches: with five-level page tables,
/// less one page that the kernel keeps.
pub const USER_END: u64 = (1 << 56) - crate::pages::PAGE_SIZE;

/// Largest offset or size of a file.
pub const MAX_OFFSET: u64 = i64::MAX as u64;

/// Largest pid (PID_MAX_LIMIT less one).
pub const MAX_PID: u32 = (1 << 22) - 1;

/// Largest descriptor number any kernel allows (`fs.nr_open`'s ceiling).
pub const MAX_FD: u32 = (1 << 30) - 1;

impl Checkpoint {
    /// Checks that the image makes sense; the first thing that does not.
    pub fn check(&self) -> Result<(), CheckError> {
        machine::check(self)?;
        pages::check_files(self)?;
        tables::check_ghosts(self)?;
        tables::check_shmems(self)?;
        tables::check_pipes(self)?;
        tables::check_seccomp_filters(self)?;
        signals::check_hands(self)?;
        files::check_open_files(self)?;
        descriptors::check(self)?;
        tables::check_fs(self)?;
        memory::check(self)?;
        cgroup::check(self)?;
        task::check(self)
    }
}
