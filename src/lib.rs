//! icecore puts a running Linux process to sleep on disk and wakes it up
//! again.
//!
//! [`Dump`] and [`Restore`] do what the command line does:
//!
//! ```no_run
//! use icecore::{Dump, Restore};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dumped = Dump::new(4711, "/var/ice/job").leave_running(true).run()?;
//! println!("stood still for {} µs", dumped.stats.frozen_us);
//!
//! let restored = Restore::new("/var/ice/job").detached(true).run()?;
//! println!("runs again as {:?}", restored.pid);
//! # Ok(())
//! # }
//! ```

pub mod kernel;
pub mod tracer;

mod blocker;
mod builder;
mod dump;
mod error;
pub mod keeper;
mod observer;
mod options;
mod outside;
mod restore;
mod stats;

pub mod cli;

pub use blocker::{Blocker, Obstacle, Place};
pub use builder::{Check, Dump, Restore};
pub use error::{DumpError, RestoreError};
pub use icecore_images as images;
pub use observer::{Cancel, Moment, Observer, Progress, Stage, Unobserved};
pub use options::{
    After, CgroupMode, CgroupOptions, CgroupProperties, CgroupRoot, CgroupSelection,
    CgroupSpecError, DEFAULT_GHOST_LIMIT, DEFAULT_TIMEOUT, DumpOptions, Inherited, PidPolicy,
    RestoreOptions,
};
pub use outside::{OutsideKind, OutsideMatch, OutsidePolicy, OutsideRule, OutsideRules};
pub use stats::{DUMP_STATS, DumpReport, DumpStats, RESTORE_STATS, RestoreReport, RestoreStats};
