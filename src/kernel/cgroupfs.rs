//! Control groups as the kernel shows them: who is where
//! (`/proc/PID/cgroup`), which hierarchies there are, and where they are
//! mounted. Nothing is ever mounted here: mounting cgroup2 once more would
//! change the options of the mounts there are.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::proc_text;

/// A line of `/proc/PID/cgroup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    /// Of version 2.
    pub(crate) unified: bool,
    /// Controllers of a v1 hierarchy, or `name=NAME`; none in version 2.
    pub(crate) controllers: Vec<String>,
    /// Relative to the cgroup namespace of who reads.
    pub(crate) path: Vec<u8>,
}

/// The cgroups of a thread.
pub(crate) fn memberships(id: u32) -> io::Result<Vec<Membership>> {
    let text = proc_text::read(id, "cgroup")?;
    let lines = proc_text::lines(&text).map(membership);
    let all: Option<Vec<_>> = lines.collect();
    all.ok_or_else(|| proc_text::malformed("cgroup"))
}

fn membership(line: &[u8]) -> Option<Membership> {
    let mut fields = line.splitn(3, |&b| b == b':');
    let (id, names, path) = (fields.next()?, fields.next()?, fields.next()?);
    let names = std::str::from_utf8(names).ok()?;
    let controllers = names.split(',').filter(|name| !name.is_empty());
    Some(Membership {
        unified: id == b"0",
        controllers: controllers.map(str::to_owned).collect(),
        path: path.to_owned(),
    })
}

/// A hierarchy of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Of version 2.
    pub(crate) unified: bool,
    /// Its controllers; a v1 hierarchy's are found by them.
    pub(crate) controllers: Vec<String>,
    /// Where it is mounted, if it is.
    mount: Option<Mount>,
}

/// A mount of a hierarchy, or of a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    unified: bool,
    point: PathBuf,
    /// The cgroup that is mounted.
    root: Vec<u8>,
    /// Options of the file system.
    options: Vec<String>,
}

impl Hierarchy {
    /// What it is called in messages.
    pub(crate) fn name(&self) -> String {
        name(self.unified, &self.controllers)
    }

    /// The directory of a cgroup; `None` where it cannot be seen. `path` has
    /// been checked to lead nowhere else.
    pub(crate) fn dir(&self, path: &[u8]) -> Option<PathBuf> {
        let mount = self.mount.as_ref()?;
        let rest = icecore_images::cgroup::below(path, &mount.root)?;
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        Some(match rest.is_empty() {
            true => mount.point.clone(),
            false => mount.point.join(OsStr::from_bytes(rest)),
        })
    }

    /// Where it is mounted.
    pub(crate) fn mount_point(&self) -> Option<&Path> {
        self.mount.as_ref().map(|mount| mount.point.as_path())
    }
}

/// What a hierarchy is called in messages.
pub(crate) fn name(unified: bool, controllers: &[String]) -> String {
    match unified {
        true => "cgroup2".to_owned(),
        false => controllers.join(","),
    }
}

/// All hierarchies of this machine. They are looked for below `yard`, if it is
/// given: a directory that has one for each hierarchy.
pub(crate) fn hierarchies(yard: Option<&Path>) -> io::Result<Vec<Hierarchy>> {
    let mounts = mounts()?;
    let memberships = memberships(std::process::id())?;
    Ok(memberships
        .into_iter()
        .map(|member| hierarchy(member, &mounts, yard))
        .collect())
}

fn hierarchy(member: Membership, mounts: &[Mount], yard: Option<&Path>) -> Hierarchy {
    let mut found = Hierarchy {
        unified: member.unified,
        controllers: member.controllers,
        mount: None,
    };
    found.mount = match yard {
        Some(yard) => in_yard(&found, mounts, yard),
        None => mounted(&found, mounts),
    };
    if let (true, Some(mount)) = (found.unified, &found.mount) {
        let all = fs::read_to_string(mount.point.join("cgroup.controllers")).unwrap_or_default();
        found.controllers = all.split_whitespace().map(str::to_owned).collect();
    }
    found
}

/// The mount that shows most of a hierarchy.
fn mounted(hierarchy: &Hierarchy, mounts: &[Mount]) -> Option<Mount> {
    let shows = |mount: &&Mount| {
        let has = |name| mount.options.contains(name);
        mount.unified == hierarchy.unified
            && (mount.unified || hierarchy.controllers.iter().all(has))
            && is_cgroupfs(&mount.point)
    };
    let all = mounts.iter().filter(shows);
    all.min_by_key(|mount| mount.root.len()).cloned()
}

/// `YARD/cpu,cpuacct`, `YARD/cpu`, `YARD/systemd`; `YARD/unified` or the yard
/// itself.
fn in_yard(hierarchy: &Hierarchy, mounts: &[Mount], yard: &Path) -> Option<Mount> {
    let plain = |name: &String| name.trim_start_matches("name=").to_owned();
    let mut names = vec![hierarchy.controllers.join(",")];
    names.extend(hierarchy.controllers.iter().map(plain));
    let places: Vec<PathBuf> = match hierarchy.unified {
        true => vec![yard.join("unified"), yard.to_owned()],
        false => names.iter().map(|name| yard.join(name)).collect(),
    };
    places.into_iter().find_map(|place| {
        let place = fs::canonicalize(place).ok()?;
        if cgroupfs_version(&place) != Some(hierarchy.unified) {
            return None;
        }
        // It may be a directory inside a mount.
        let above = mounts
            .iter()
            .filter(|mount| place.starts_with(&mount.point));
        let mount = above.max_by_key(|mount| mount.point.as_os_str().len())?;
        Some(mount.clone())
    })
}

fn is_cgroupfs(point: &Path) -> bool {
    cgroupfs_version(point).is_some()
}

/// Whether a directory is one of cgroup2 (true) or of cgroup (false).
pub(crate) fn cgroupfs_version(dir: &Path) -> Option<bool> {
    const CGROUP_SUPER_MAGIC: i64 = 0x0027_e0eb;
    const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
    match rustix::fs::statfs(dir).ok()?.f_type {
        CGROUP_SUPER_MAGIC => Some(false),
        CGROUP2_SUPER_MAGIC => Some(true),
        _ => None,
    }
}

fn mounts() -> io::Result<Vec<Mount>> {
    let text = proc_text::read(std::process::id(), "mountinfo")?;
    Ok(proc_text::lines(&text).filter_map(mount).collect())
}

/// A line of mountinfo that is about a hierarchy.
fn mount(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|&b| b == b' ');
    let root = proc_text::unescape(words.nth(3)?);
    let point = proc_text::unescape(words.next()?);
    let mut rest = words.skip_while(|&word| word != b"-").skip(1);
    let unified = match rest.next()? {
        b"cgroup" => false,
        b"cgroup2" => true,
        _ => return None,
    };
    let options = String::from_utf8_lossy(rest.nth(1)?).into_owned();
    Some(Mount {
        unified,
        point: OsStr::from_bytes(&point).into(),
        root,
        options: options.split(',').map(str::to_owned).collect(),
    })
}

/// A file of a cgroup, without its last newline; `None` where there is no such
/// file.
pub(crate) fn read_file(dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    match fs::read(dir.join(name)) {
        Ok(mut bytes) => {
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
            }
            Ok(Some(bytes))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// What a property says, in the words in which it can be set; `None` where this
/// kernel does not have it, or has no use for it.
pub(crate) fn setting(dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    match read_file(dir, name) {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        read => Ok(read?.map(|bytes| settable(name, bytes))),
    }
}

fn settable(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    let mut words = bytes.split(|b| b.is_ascii_whitespace());
    let word = match name {
        // `oom_kill_disable 1`, and counters behind it, is set by `1`.
        "memory.oom_control" => words.nth(1),
        // `root invalid (why)` is set by `root`.
        "cpuset.cpus.partition" => words.next(),
        _ => return bytes,
    };
    word.unwrap_or_default().to_vec()
}

/// A file of a cgroup as text; empty where it cannot be read.
pub(crate) fn text(dir: &Path, name: &str) -> String {
    let bytes = read_file(dir, name).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a cgroup stands still, by itself or because one above does.
pub(crate) fn is_frozen(dir: &Path) -> bool {
    freezes_itself(dir)
        || text(dir, "freezer.parent_freezing") == "1"
        || text(dir, "cgroup.events")
            .lines()
            .any(|line| line == "frozen 1")
}

/// The file that makes a cgroup stand still, and what is written there for
/// that and to let it go on; `None` for a directory that is no such cgroup.
pub(crate) fn freezer(dir: &Path) -> Option<(PathBuf, &'static str, &'static str)> {
    let (v1, v2) = (dir.join("freezer.state"), dir.join("cgroup.freeze"));
    if v1.exists() {
        return Some((v1, "FROZEN", "THAWED"));
    }
    v2.exists().then_some((v2, "1", "0"))
}

/// Whether all of a cgroup stands still, or its version 1 says so.
pub(crate) fn stands_still(dir: &Path) -> bool {
    text(dir, "freezer.state") == "FROZEN"
        || text(dir, "cgroup.events")
            .lines()
            .any(|line| line == "frozen 1")
}

/// Whether a cgroup has been told to freeze.
pub(crate) fn freezes_itself(dir: &Path) -> bool {
    text(dir, "freezer.self_freezing") == "1" || text(dir, "cgroup.freeze") == "1"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_versions_are_read() {
        let v1 = membership(b"4:cpu,cpuacct:/a:b").unwrap();
        assert_eq!((v1.unified, v1.path.as_slice()), (false, &b"/a:b"[..]));
        assert_eq!(v1.controllers, ["cpu", "cpuacct"]);
        let v2 = membership(b"0::/x").unwrap();
        assert_eq!((v2.unified, v2.controllers.len()), (true, 0));
        assert_eq!(membership(b"0:/x"), None);
    }

    #[test]
    fn mounts_are_found_in_mountinfo() {
        let line =
            br"30 1 0:26 /a /sys/fs/cg\040x rw,nosuid shared:1 - cgroup cgroup rw,cpu,cpuacct";
        let found = mount(line).unwrap();
        assert_eq!(found.point, Path::new("/sys/fs/cg x"));
        assert_eq!(found.options, ["rw", "cpu", "cpuacct"]);
        let hierarchy = Hierarchy {
            unified: false,
            controllers: vec!["cpu".to_owned()],
            mount: Some(found),
        };
        assert_eq!(hierarchy.dir(b"/a/b"), Some("/sys/fs/cg x/b".into()));
        assert_eq!(hierarchy.dir(b"/a"), Some("/sys/fs/cg x".into()));
        assert_eq!(hierarchy.dir(b"/b"), None);
        assert_eq!(mount(b"30 1 0:26 / /proc rw - proc proc rw"), None);
    }

    #[test]
    fn what_is_read_can_be_set() {
        let set = |name: &str, text: &str| settable(name, text.as_bytes().to_vec());
        let read = "oom_kill_disable 1\nunder_oom 0\noom_kill 0";
        assert_eq!(set("memory.oom_control", read), b"1");
        let read = "root invalid (Cpu list in cpuset.cpus not exclusive)";
        assert_eq!(set("cpuset.cpus.partition", read), b"root");
        assert_eq!(set("cpu.max", "max 100000"), b"max 100000");
    }

    #[test]
    fn this_machine_has_the_hierarchies_we_are_in() {
        let all = hierarchies(None).unwrap();
        assert_eq!(all.len(), memberships(std::process::id()).unwrap().len());
    }
}
