//! icecore puts a running Linux process to sleep on disk and wakes it up
//! again.
//!
//! [`Dump`] and [`Restore`] do what the command line does; [`Check`] tells
//! beforehand what would stand in the way.
#![allow(dead_code)] // TODO(foundation): remove once the rooms are joined

pub mod kernel;
pub mod tracer;

mod blocker;
mod dump;
mod error;
mod options;
mod restore;
mod stats;

pub mod cli;

pub use blocker::{Blocker, Obstacle, Place};
pub use dump::Dump;
pub use error::{DumpError, RestoreError};
pub use icecore_images as images;
pub use options::{DumpOptions, PidPolicy, RestoreOptions};
pub use restore::Restore;
pub use stats::{DumpStats, RestoreStats};
