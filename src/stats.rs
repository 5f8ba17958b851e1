//! `stats.json` and `stats-restore.json`: what a dump or restore cost. Names are
//! documented and stable; harnesses read them.

use std::path::Path;

use icecore_images::store::write_beside;
use serde::Serialize;

/// File in the image's directory with a dump's [`DumpStats`].
pub const DUMP_STATS: &str = "stats.json";
/// File in the image's directory with the last restore's [`RestoreStats`].
pub const RESTORE_STATS: &str = "stats-restore.json";

/// Writes `stats` beside an image. It did not fail because its cost could not
/// be written down: the error is a note for the report.
pub(crate) fn write(dir: &Path, name: &str, stats: &impl Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(stats).map_err(|e| e.to_string());
    let written = text.and_then(|text| {
        let contents = text + "\n";
        write_beside(dir, name, contents.as_bytes()).map_err(|e| e.to_string())
    });
    match written {
        Ok(_) => Ok(()),
        Err(e) => Err(format!(
            "{} could not be written: {e}",
            dir.join(name).display()
        )),
    }
}

/// Cost of a dump.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DumpStats {
    /// Time from the first seize until everything stood still.
    pub freezing_us: u64,
    /// Time the target could not run.
    pub frozen_us: u64,
    /// Reading /proc and ptrace.
    pub collect_us: u64,
    /// Running the parasite.
    pub parasite_us: u64,
    /// Copying pages.
    pub memdump_us: u64,
    /// Writing everything that is not pages.
    pub write_us: u64,
    /// fsync and rename.
    pub sync_us: u64,
    /// All of it.
    pub total_us: u64,
    /// Pages looked at.
    pub pages_scanned: u64,
    /// Pages to be copied while the target stood still.
    pub pages_in_pause: u64,
    /// Pages stored.
    pub pages_written: u64,
    /// Pages found to be zero and not stored.
    pub pages_zero: u64,
    /// Pages stored with another task that still shares them.
    pub pages_shared: u64,
    /// Pages left to the parent image.
    pub pages_parent: u64,
    /// Bytes of all image files.
    pub bytes_written: u64,
    /// Worker threads.
    pub threads: u64,
    /// Copying engine.
    pub engine: String,
}

/// Cost of a restore.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RestoreStats {
    /// Verifying and planning.
    pub plan_us: u64,
    /// Creating tasks.
    pub spawn_us: u64,
    /// Rebuilding everything but memory.
    pub rebuild_us: u64,
    /// Filling pages.
    pub pages_us: u64,
    /// All of it, until the task runs.
    pub total_us: u64,
    /// Pages filled.
    pub pages_restored: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Worker threads.
    pub threads: u64,
}

/// What came of a dump.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DumpReport {
    /// What it cost.
    pub stats: DumpStats,
    /// Deviations that do not stop a dump but are said aloud.
    pub notes: Vec<String>,
}

/// What came of a restore.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RestoreReport {
    /// The root task, as this process sees it; `None` where it was only
    /// planned.
    pub pid: Option<u32>,
    /// The process to wait for, whose end and exit status stand for the root
    /// task's: the task itself, or the init of the namespace made for it, which
    /// turns death by a signal into status 128 and the signal's number.
    pub awaited: Option<u32>,
    /// What it cost.
    pub stats: RestoreStats,
    /// Deviations that do not stop a restore but are said aloud.
    pub notes: Vec<String>,
}
