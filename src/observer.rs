//! What an operation tells its caller while it runs, and what it is told:
//! stages (for action scripts), progress, and the wish to stop.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A point in a dump or restore at which the caller may act. The names are
/// those CRIU's users know from their action scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Before anything is touched.
    PreDump,
    /// The image is complete on disk; the target is still frozen, unless the
    /// dump is live.
    PostDump,
    /// The plan has found no obstacle; nothing has been created.
    PreRestore,
    /// Everything is rebuilt; the tasks are still held.
    PostRestore,
    /// Directly before the tasks are let go. A failure still leaves nothing
    /// behind.
    PreResume,
    /// The tasks run (or were left stopped).
    PostResume,
}

impl Stage {
    /// Its name: `pre-dump`, `post-dump` ….
    pub fn name(self) -> &'static str {
        match self {
            Stage::PreDump => "pre-dump",
            Stage::PostDump => "post-dump",
            Stage::PreRestore => "pre-restore",
            Stage::PostRestore => "post-restore",
            Stage::PreResume => "pre-resume",
            Stage::PostResume => "post-resume",
        }
    }
}

/// A stage that has been reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// Which.
    pub stage: Stage,
    /// Directory of the image.
    pub images_dir: PathBuf,
    /// The root task, once there is one.
    pub init_pid: Option<u32>,
}

/// How far the copying of pages is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes to copy.
    pub total_bytes: u64,
    /// Bytes copied.
    pub done_bytes: u64,
    /// How long the target has been frozen.
    pub frozen: Duration,
}

/// Someone who watches an operation.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A stage has been reached. An error fails the operation, which then
    /// leaves everything as it was.
    fn stage(&self, moment: &Moment) -> io::Result<()> {
        let _ = moment;
        Ok(())
    }

    /// Whether the target must stand still at [`Stage::PostDump`] even if it is
    /// to go on. Where nobody needs that, it goes on earlier.
    fn needs_it_frozen(&self) -> bool {
        true
    }

    /// Some more bytes have been copied; called often, from any thread.
    fn progress(&self, progress: Progress) {
        let _ = progress;
    }
}

/// Watches nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn needs_it_frozen(&self) -> bool {
        false
    }
}

/// A wish to stop, to be made from a signal handler or another thread. The
/// operation ends at its next step with an error and leaves everything as it
/// was.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Nobody has wished anything yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wishes the operation to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The flag itself, for a signal handler.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}
