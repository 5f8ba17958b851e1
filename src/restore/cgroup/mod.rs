//! Control groups, put back as the mode says: planned, made and set up before
//! there is a process, entered before pages are filled, limited after.
//!
//! Ordering requirements:
//! - a cgroup's devices are set before it has children, after which the kernel
//!   takes no whole list;
//! - cgroup namespaces are made before controllers are enabled for children of
//!   their roots: where they are, version 2 lets no process in;
//! - types come before controllers, controllers before properties, parents
//!   before children;
//! - cpusets have processors and memory before anyone enters;
//! - what everyone enters comes before pages are filled, which count where the
//!   task is then; threads that are elsewhere follow once they exist;
//! - limits come when everything is filled: they could end the task, or let
//!   no thread be made; freezers last, as nobody behind them moves.

mod check;
mod enter;
mod limit;
mod made;
mod make;
mod namespace;
mod plan;
mod set;

use std::collections::BTreeMap;
use std::path::PathBuf;

use icecore_images::ByteString;
use icecore_images::cgroup::{Cgroup, CgroupHierarchy, CgroupMode, CgroupVersion, below};

use crate::blocker::Place;
use crate::kernel::cgroupfs::{self, Hierarchy};

pub(super) use enter::{enter, place_threads};
pub(super) use made::{Made, apply_limits, settle};
pub(super) use make::make;
pub(super) use plan::plan;

/// A hierarchy of the image, and where it is here.
#[derive(Debug)]
pub(super) struct Spot<'a> {
    /// Its index in the image.
    at: usize,
    image: &'a CgroupHierarchy,
    here: Hierarchy,
    /// What the root of the dump becomes.
    root: Vec<u8>,
    /// Cgroups that are wanted, by their paths in the image, parents first.
    wanted: BTreeMap<Vec<u8>, Wanted<'a>>,
}

/// A cgroup that is wanted.
#[derive(Debug, Clone, Copy, Default)]
struct Wanted<'a> {
    /// As the image has it, if it does and the mode makes use of it.
    recorded: Option<&'a Cgroup>,
    /// Threads are to be in it.
    has_members: bool,
    /// A cgroup namespace begins here.
    is_root: bool,
}

impl Spot<'_> {
    fn unified(&self) -> bool {
        self.image.version == CgroupVersion::V2
    }

    /// Where `path` of the image comes to be.
    fn path(&self, path: &[u8]) -> Vec<u8> {
        let rest = below(path, &self.image.root.0).unwrap_or(path);
        let root = self.root.strip_suffix(b"/").unwrap_or(&self.root);
        match [root, rest].concat() {
            path if path.is_empty() => b"/".to_vec(),
            path => path,
        }
    }

    /// Its directory.
    fn dir(&self, path: &[u8]) -> PathBuf {
        let dir = self.here.dir(&self.path(path));
        // The plan has refused what cannot be seen.
        dir.unwrap_or_else(|| PathBuf::from("/nonexistent"))
    }

    fn is_mount_root(&self, dir: &std::path::Path) -> bool {
        self.here.mount_point() == Some(dir)
    }

    /// `memory:/job`.
    fn label(&self, path: &[u8]) -> String {
        let name = cgroupfs::name(self.unified(), &self.image.controllers);
        format!("{name}:{}", ByteString::from(self.path(path)))
    }

    fn place(&self, path: &[u8]) -> Place {
        Place::Path {
            path: self.label(path),
        }
    }
}

/// Whether the properties of a cgroup are set.
fn sets(mode: CgroupMode, exists: bool) -> bool {
    match exists {
        true => mode.sets_existing(),
        false => mode.creates(),
    }
}
