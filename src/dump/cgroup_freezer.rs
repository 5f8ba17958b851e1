//! Frozen cgroups: one that freezes the target for the dump (`--freeze-cgroup`),
//! and those in which it was found.
//!
//! Tasks of a frozen cgroup cannot be traced: they are told to stop, the cgroup
//! is thawed, and they stop before they have done anything. A guardian is told
//! first: it thaws what was frozen for the dump, and freezes what was found
//! frozen, at the end of the dump or of icecore.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::DumpError;
use crate::kernel::cgroupfs::{self, Hierarchy};
use crate::options::DumpOptions;
use crate::tracer::{Guardian, Undo, forest};

/// Cgroups that stand still, or are to be as they were found.
#[derive(Debug, Default)]
pub(super) struct Standstill {
    /// Undoes everything when it is dropped.
    guardian: Option<Guardian>,
    /// Frozen for the dump.
    ours: Option<PathBuf>,
    /// Found frozen, those above first.
    found: Vec<PathBuf>,
}

impl Standstill {
    /// Freezes what is to be frozen, and looks for what is frozen already.
    pub(super) fn of(options: &DumpOptions) -> Result<Self, DumpError> {
        let pid = options.pid;
        let read = |source| DumpError::Read {
            pid,
            what: "its cgroups".to_owned(),
            source,
        };
        let here = cgroupfs::hierarchies(options.cgroups.yard.as_deref()).map_err(read)?;
        let found = frozen_around(&here, pid).map_err(read)?;
        let asked = options.cgroup_selection.freeze.as_deref();
        let asked = asked.filter(|dir| !found.iter().any(|found| dir.starts_with(found)));
        if found.is_empty() && asked.is_none() {
            return Ok(Self::default());
        }
        let spawned = Guardian::spawn().map_err(|source| DumpError::Guardian { source })?;
        let mut standstill = Self {
            guardian: Some(spawned),
            ours: None,
            found,
        };
        standstill.nobody_else(pid)?;
        if let Some(dir) = asked {
            standstill.freeze(dir, options.timeout)?;
        }
        Ok(standstill)
    }

    /// Whether the target stands still by a cgroup.
    pub(super) fn is_needed(&self) -> bool {
        self.ours.is_some() || !self.found.is_empty()
    }

    /// Directories of the cgroups that were frozen before.
    pub(super) fn found(&self) -> Vec<PathBuf> {
        self.found.clone()
    }

    /// Puts all back, now.
    pub(super) fn end(self) {
        drop(self);
    }

    /// Others than the target would go on while it is dumped.
    fn nobody_else(&self, pid: u32) -> Result<(), DumpError> {
        if self.found.is_empty() {
            return Ok(());
        }
        let known = forest::descendants(pid);
        let known: BTreeSet<u32> = known
            .map_err(|source| DumpError::Freeze { pid, source })?
            .into_iter()
            .collect();
        for dir in &self.found {
            let others = members(dir).map_err(failed(dir, "read its members"))?;
            if let Some(other) = others.iter().find(|pid| !known.contains(pid)) {
                let why = format!(
                    "pid {other} is in it and not in the dump: it would go on for a moment"
                );
                let what = "it is frozen, and cannot be thawed for the dump";
                return Err(failed(dir, what)(io::Error::other(why)));
            }
        }
        Ok(())
    }

    fn freeze(&mut self, dir: &Path, limit: Duration) -> Result<(), DumpError> {
        let version = cgroupfs::cgroupfs_version(dir);
        let freezer = version.and_then(|_| cgroupfs::freezer(dir));
        let Some((file, freeze, thaw)) = freezer else {
            let why = io::Error::other("it has neither freezer.state nor cgroup.freeze");
            return Err(failed(dir, "freeze it")(why));
        };
        self.later(&file, thaw).map_err(failed(dir, "freeze it"))?;
        self.ours = Some(dir.to_owned());
        std::fs::write(&file, freeze).map_err(failed(dir, "freeze it"))?;
        let deadline = Instant::now() + limit;
        while !cgroupfs::stands_still(dir) {
            if Instant::now() > deadline {
                let why = io::Error::from(io::ErrorKind::TimedOut);
                return Err(failed(dir, "wait until it stands still")(why));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn later(&mut self, file: &Path, word: &str) -> io::Result<()> {
        let guardian = self.guardian.as_mut();
        let guardian = guardian.ok_or(io::ErrorKind::NotConnected)?;
        let (path, bytes) = (file.to_owned(), word.as_bytes().to_vec());
        guardian.undo_later(&Undo::Write { path, bytes }).map(drop)
    }

    /// Thaws everything for the time of the dump.
    pub(super) fn thaw(&mut self) -> io::Result<()> {
        for dir in self.found.clone() {
            if let Some((file, freeze, thaw)) = cgroupfs::freezer(&dir) {
                self.later(&file, freeze)?;
                std::fs::write(&file, thaw)?;
            }
        }
        if let Some((file, _, thaw)) = self.ours.as_deref().and_then(cgroupfs::freezer) {
            std::fs::write(&file, thaw)?;
        }
        Ok(())
    }
}

fn failed(dir: &Path, what: &str) -> impl FnOnce(io::Error) -> DumpError + use<> {
    let (dir, what) = (dir.to_owned(), what.to_owned());
    move |source| DumpError::Freezer { dir, what, source }
}

/// Directories of the cgroups that make a process, or one below it, stand
/// still.
fn frozen_around(here: &[Hierarchy], pid: u32) -> io::Result<Vec<PathBuf>> {
    let mut found = BTreeSet::new();
    // Where nobody stands still, there is nothing to be found; where somebody
    // does, nothing of it moves.
    let all = forest::descendants(pid).unwrap_or_else(|_| vec![pid]);
    for pid in all {
        let Ok(memberships) = cgroupfs::memberships(pid) else {
            continue; // it has ended
        };
        for member in memberships {
            let same = |h: &&Hierarchy| {
                h.unified == member.unified && (h.unified || h.controllers == member.controllers)
            };
            let hierarchy = here.iter().find(same);
            let is_path = icecore_images::cgroup::is_cgroup_path(&member.path);
            let dir = hierarchy
                .filter(|_| is_path)
                .and_then(|h| h.dir(&member.path));
            let point = hierarchy.and_then(Hierarchy::mount_point);
            let (Some(dir), Some(point)) = (dir, point) else {
                continue;
            };
            let above = dir.ancestors().take_while(|above| above.starts_with(point));
            found.extend(
                above
                    .filter(|dir| cgroupfs::freezes_itself(dir))
                    .map(Path::to_owned),
            );
        }
    }
    Ok(found.into_iter().collect())
}

/// Processes in or below a cgroup.
fn members(dir: &Path) -> io::Result<Vec<u32>> {
    let procs = cgroupfs::read_file(dir, "cgroup.procs")?.unwrap_or_default();
    let procs = String::from_utf8_lossy(&procs).into_owned();
    let mut all: Vec<u32> = procs.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.extend(members(&entry.path())?);
        }
    }
    Ok(all)
}
