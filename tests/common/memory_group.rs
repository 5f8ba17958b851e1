//! A memory cgroup of a test's own, in whichever hierarchy the machine has.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::wait;

const PAGE: u64 = 4096;

/// A memory cgroup. Dropping it removes it; whoever was in it has ended by then.
#[derive(Debug)]
pub(crate) struct MemoryGroup {
    dir: PathBuf,
    limit: &'static str,
    usage: &'static str,
    /// The file that counts how often the kernel ended someone for want of
    /// memory.
    kills: &'static str,
}

impl MemoryGroup {
    /// Makes one without a limit.
    pub(crate) fn new() -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("icecore-test-{}-{number}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (root, limit, usage, kills) = match v1.join("memory.limit_in_bytes").exists() {
            true => (
                v1,
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "memory.oom_control",
            ),
            false => (
                Path::new("/sys/fs/cgroup"),
                "memory.max",
                "memory.current",
                "memory.events",
            ),
        };
        let dir = root.join(name);
        fs::create_dir(&dir).map_err(|e| format!("create {}: {e}", dir.display()))?;
        let group = Self {
            dir,
            limit,
            usage,
            kills,
        };
        match group.dir.join(limit).exists() {
            true => Ok(group),
            false => Err("the memory controller is not handed down to cgroups".to_owned()),
        }
    }

    /// Where a process enters it.
    pub(crate) fn entrance(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Bytes that are charged to it.
    pub(crate) fn usage(&self) -> Result<u64, String> {
        let text = self.read(self.usage)?;
        text.trim().parse().map_err(|e| format!("{text:?}: {e}"))
    }

    /// Leaves it `more` bytes than are used. A limit that the kernel finds too
    /// tight at first (it keeps some charges in advance) is tried again.
    pub(crate) fn leave(&self, more: u64) -> Result<(), String> {
        let path = self.dir.join(self.limit);
        wait::until("the memory limit to be taken", wait::LIMIT, || {
            let limit = self.usage()? + more;
            Ok(fs::write(&path, limit.to_string()).is_ok().then_some(()))
        })
    }

    /// Leaves it nothing: takes away what can be taken, caches and charges kept
    /// in advance included. (cgroup2 would kill rather than refuse.)
    pub(crate) fn leave_nothing(&self) -> Result<(), String> {
        self.leave(0)?;
        let path = self.dir.join(self.limit);
        if self.limit != "memory.limit_in_bytes" {
            return Ok(());
        }
        loop {
            let less = self.usage()?.saturating_sub(PAGE);
            if fs::write(&path, less.to_string()).is_err() {
                return Ok(());
            }
        }
    }

    /// Whom the kernel has ended in it for want of memory.
    pub(crate) fn kills(&self) -> Result<u64, String> {
        let text = self.read(self.kills)?;
        let line = text.lines().find_map(|l| l.strip_prefix("oom_kill "));
        let count = line.and_then(|count| count.trim().parse().ok());
        count.ok_or_else(|| format!("{} does not count: {text}", self.kills))
    }

    fn read(&self, file: &str) -> Result<String, String> {
        let path = self.dir.join(file);
        fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // The last process may be on its way out.
        let _ = wait::until("the cgroup to be empty", wait::LIMIT, || {
            Ok(fs::remove_dir(&self.dir).is_ok().then_some(()))
        });
    }
}
