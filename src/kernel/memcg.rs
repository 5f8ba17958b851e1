//! How much memory is left for us: what a file on a tmpfs may take without
//! anyone being killed for it.

use std::fs;
use std::path::{Path, PathBuf};

use procfs::Current;

/// Whether files in `dir` live in memory.
pub fn is_memory_backed(dir: &Path) -> bool {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    rustix::fs::statfs(dir).is_ok_and(|fs| [TMPFS_MAGIC, RAMFS_MAGIC].contains(&fs.f_type))
}

/// Bytes that may still be used by our memory cgroup, all those above it and
/// the machine; `None` if nothing of that can be read.
pub fn headroom() -> Option<u64> {
    let machine = machine_available();
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let groups = cgroups
        .lines()
        .filter_map(|line| group(line, &mounts))
        .filter_map(|(mount, path, files)| smallest(&mount, &path, files));
    groups.chain(machine).min()
}

/// `MemAvailable` of /proc/meminfo, bytes.
fn machine_available() -> Option<u64> {
    procfs::Meminfo::current().ok()?.mem_available
}

/// Names of the files that hold a limit and the usage.
type Files = (&'static str, &'static str);

/// The mount point and path of a `/proc/self/cgroup` line that is about
/// memory.
fn group(line: &str, mounts: &str) -> Option<(PathBuf, PathBuf, Files)> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let (fs_type, option, files) = match controllers {
        "" => ("cgroup2", "", ("memory.max", "memory.current")),
        c if c.split(',').any(|c| c == "memory") => (
            "cgroup",
            "memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ),
        _ => return None,
    };
    let mount = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let found = after.next()? == fs_type
            && (option.is_empty() || after.nth(1)?.split(',').any(|o| o == option));
        found.then(|| before.split(' ').nth(4))?
    })?;
    let inside = path.trim_start_matches('/');
    Some((mount.into(), inside.into(), files))
}

/// The least that is left in the group or one above it.
fn smallest(mount: &Path, path: &Path, (limit, usage): Files) -> Option<u64> {
    let left = |dir: &Path| {
        let read = |name| fs::read_to_string(mount.join(dir).join(name)).ok();
        let limit: u64 = read(limit)?.trim().parse().ok()?;
        let used: u64 = read(usage)?.trim().parse().ok()?;
        // Cache of files that nobody has used lately makes room when needed.
        let cache = read("memory.stat").and_then(|stat| idle_cache(&stat));
        Some(limit.saturating_sub(used.saturating_sub(cache.unwrap_or(0))))
    };
    path.ancestors().filter_map(left).min()
}

fn idle_cache(stat: &str) -> Option<u64> {
    let value = |key: &str| {
        stat.lines()
            .filter_map(|line| line.split_once(' '))
            .find_map(|(k, value)| (k == key).then(|| value.parse().ok())?)
    };
    value("total_inactive_file").or_else(|| value("inactive_file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 1 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
31 1 0:27 / /sys/fs/cgroup/unified rw - cgroup2 none rw
";

    #[test]
    fn groups_are_found_by_hierarchy() {
        let (mount, path, files) = group("4:cpu,memory:/a/b", MOUNTS).unwrap();
        assert_eq!(mount, Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(
            (path.as_path(), files.0),
            (Path::new("a/b"), "memory.limit_in_bytes")
        );
        let (mount, _, files) = group("0::/", MOUNTS).unwrap();
        assert_eq!(mount, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(files.1, "memory.current");
        assert_eq!(group("5:cpu:/", MOUNTS), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        fs::write(inner.join("memory.current"), "10\n").unwrap();
        let files = ("memory.max", "memory.current");
        assert_eq!(smallest(dir.path(), Path::new("a/b"), files), None);
        fs::write(dir.path().join("a/memory.max"), "100\n").unwrap();
        fs::write(dir.path().join("a/memory.current"), "70\n").unwrap();
        assert_eq!(smallest(dir.path(), Path::new("a/b"), files), Some(30));
        fs::write(
            dir.path().join("a/memory.stat"),
            "anon 1\ninactive_file 50\n",
        )
        .unwrap();
        assert_eq!(smallest(dir.path(), Path::new("a/b"), files), Some(80));
    }

    #[test]
    fn this_machine_has_some_memory_left() {
        assert!(headroom().unwrap() > 0);
    }
}
