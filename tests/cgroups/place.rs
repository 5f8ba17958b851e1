//! Cgroups of a test's own, removed with everything in them; one test at a time.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::common::wait;

/// A hierarchy that is mounted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// That of this controller.
    V1(&'static str),
    V2,
}

impl Version {
    /// Where it is mounted.
    pub(crate) fn root(self) -> Result<PathBuf> {
        let mounts = fs::read_to_string("/proc/mounts").map_err(|e| e.to_string())?;
        let found = mounts.lines().find_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let shows = match self {
                Version::V1(name) => {
                    words[2] == "cgroup" && words[3].split(',').any(|option| option == name)
                }
                Version::V2 => words[2] == "cgroup2",
            };
            shows.then(|| PathBuf::from(words[1]))
        });
        found.ok_or_else(|| format!("{self:?} is not mounted"))
    }

    /// The cgroup of a thread in it.
    pub(crate) fn of(self, tid: u32) -> Result<String> {
        let all = fs::read_to_string(format!("/proc/{tid}/cgroup")).map_err(|e| e.to_string())?;
        let found = all.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, path) = (fields.next()?, fields.next()?);
            let is_it = match self {
                Version::V1(name) => names.split(',').any(|n| n == name),
                Version::V2 => names.is_empty(),
            };
            is_it.then(|| path.to_owned())
        });
        found.ok_or_else(|| format!("{tid} is in no cgroup of {self:?}"))
    }
}

/// Keeps other tests with cgroups out, in whatever process they run.
pub(crate) fn alone() -> Result<File> {
    let path = std::env::temp_dir().join("icecore-cgroup-tests.lock");
    let file = File::create(&path).map_err(|e| format!("create {path:?}: {e}"))?;
    file.lock().map_err(|e| format!("lock {path:?}: {e}"))?;
    Ok(file)
}

/// A directory of a hierarchy below which a test does as it likes. Dropping it
/// removes everything, once those in it have ended.
#[derive(Debug)]
pub(crate) struct Yard {
    pub(crate) dir: PathBuf,
    version: Version,
}

impl Yard {
    pub(crate) fn new(version: Version, name: &str) -> Result<Self> {
        let dir = version.root()?.join(format!("icecore-test-{name}"));
        remove_all(&dir);
        make(&dir)?;
        Ok(Self { dir, version })
    }

    /// A cgroup below it, made if it is not there.
    pub(crate) fn make(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        if !dir.is_dir() {
            make(&dir)?;
        }
        if let Version::V1("cpuset") = self.version {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                write(
                    &self.dir.join(file),
                    &read(&self.version.root()?.join(file))?,
                )?;
                write(&dir.join(file), &read(&self.dir.join(file))?)?;
            }
        }
        Ok(dir)
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        remove_all(&self.dir);
    }
}

fn make(dir: &Path) -> Result {
    fs::create_dir(dir).map_err(|e| format!("make {dir:?}: {e}"))
}

/// Removes a cgroup and all below, waiting for members that are ending.
pub(crate) fn remove_all(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_all(&entry.path());
        }
    }
    if dir.is_dir() {
        let removed = wait::until("a cgroup to be empty", wait::LIMIT, || {
            Ok(fs::remove_dir(dir).is_ok().then_some(()))
        });
        if let Err(e) = removed {
            let members = read(&dir.join("cgroup.procs"));
            assert!(std::thread::panicking(), "{dir:?}: {e}: {members:?}");
        }
    }
}

/// A file of a cgroup, trimmed.
pub(crate) fn read(file: &Path) -> Result<String> {
    let text = fs::read_to_string(file).map_err(|e| format!("read {file:?}: {e}"))?;
    Ok(text.trim().to_owned())
}

/// Writes to a file of a cgroup.
pub(crate) fn write(file: &Path, text: &str) -> Result {
    fs::write(file, text).map_err(|e| format!("write {text:?} to {file:?}: {e}"))
}

/// Moves a process.
pub(crate) fn enter(dir: &Path, pid: u32) -> Result {
    write(&dir.join("cgroup.procs"), &pid.to_string())
}

/// Owner and permissions.
pub(crate) fn owner(path: &Path) -> Result<(u32, u32, u32)> {
    let stat = fs::metadata(path).map_err(|e| format!("stat {path:?}: {e}"))?;
    Ok((stat.uid(), stat.gid(), stat.mode() & 0o7777))
}

/// Changes them.
pub(crate) fn give(path: &Path, (uid, gid, mode): (u32, u32, u32)) -> Result {
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(|e| e.to_string())?;
    let mode = fs::Permissions::from_mode(mode);
    fs::set_permissions(path, mode).map_err(|e| e.to_string())
}

/// A controller enabled for the children of the unified root, and disabled
/// again.
#[derive(Debug)]
pub(crate) struct Enabled {
    file: PathBuf,
    name: &'static str,
    ours: bool,
}

impl Enabled {
    pub(crate) fn new(name: &'static str) -> Result<Self> {
        let file = Version::V2.root()?.join("cgroup.subtree_control");
        let ours = !read(&file)?.split_whitespace().any(|known| known == name);
        write(&file, &format!("+{name}"))?;
        Ok(Self { file, name, ours })
    }
}

impl Drop for Enabled {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::write(&self.file, format!("-{}", self.name));
        }
    }
}
