//! How much memory is left: for us, what a file on a tmpfs may take without
//! anyone being killed for it; for a target, what may be charged to it.

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
    let group = headroom_of_groups("/proc/self/cgroup", |group, files| {
        left(group, files, idle_cache)
    });
    group.into_iter().chain(machine).min()
}

/// Bytes that may still be charged to the memory cgroup of the thread `tid` and
/// all those above it before the kernel ends someone in it: what it could page
/// out first counts as free. `None` where there is no limit.
pub fn headroom_of(tid: u32) -> Option<u64> {
    headroom_of_groups(&format!("/proc/{tid}/cgroup"), |group, files| {
        Some(left(group, files, any_cache)?.saturating_add(swap_left(group)))
    })
}

/// Whether the kernel would end all of the thread's memory cgroup (or one above
/// it) at once where memory runs short there: memory.oom.group of cgroup2.
pub fn ends_all_at_once(tid: u32) -> bool {
    let cgroups = format!("/proc/{tid}/cgroup");
    headroom_of_groups(&cgroups, |group, _| {
        number(group, "memory.oom.group").filter(|set| *set > 0)
    })
    .is_some()
}

/// The least of what `left` finds in the memory cgroups that this
/// `/proc/PID/cgroup` names, and above them.
fn headroom_of_groups(cgroups: &str, left: fn(&Path, Files) -> Option<u64>) -> Option<u64> {
    let cgroups = fs::read_to_string(cgroups).ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let groups = cgroups.lines().filter_map(|line| group(line, &mounts));
    let least = groups.filter_map(|(mount, path, files)| {
        let above = path.ancestors().map(|path| mount.join(path));
        above.filter_map(|group| left(&group, files)).min()
    });
    least.min()
}

/// `MemAvailable` of /proc/meminfo, bytes.
pub fn machine_available() -> Option<u64> {
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

fn number(group: &Path, name: &str) -> Option<u64> {
    fs::read_to_string(group.join(name))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// What is left in one group; cache of files makes room when needed.
fn left(group: &Path, (limit, usage): Files, cache: fn(&str) -> Option<u64>) -> Option<u64> {
    let (limit, used) = (number(group, limit)?, number(group, usage)?);
    let stat = fs::read_to_string(group.join("memory.stat")).ok();
    let cache = stat.and_then(|stat| cache(&stat)).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cache)))
}

/// A value of memory.stat; of the group with those below it, where that is told.
fn value(stat: &str, key: &str) -> Option<u64> {
    let of = |key: &str| {
        stat.lines()
            .filter_map(|line| line.split_once(' '))
            .find_map(|(k, value)| (k == key).then(|| value.parse().ok())?)
    };
    of(&format!("total_{key}")).or_else(|| of(key))
}

/// Cache that nobody has used lately.
fn idle_cache(stat: &str) -> Option<u64> {
    value(stat, "inactive_file")
}

/// All cache that can be had back.
fn any_cache(stat: &str) -> Option<u64> {
    Some(value(stat, "inactive_file")? + value(stat, "active_file")?)
}

/// What a group may still put into swap.
fn swap_left(group: &Path) -> u64 {
    let machine = procfs::Meminfo::current().map_or(0, |info| info.swap_free);
    if machine == 0 {
        return 0;
    }
    let pairs = [
        ("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"),
        ("memory.swap.max", "memory.swap.current"),
    ];
    let limits = pairs.into_iter().filter_map(|(limit, usage)| {
        Some(number(group, limit)?.saturating_sub(number(group, usage)?))
    });
    limits.chain([machine]).min().unwrap_or(0)
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
    fn cache_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        fs::write(inner.join("memory.current"), "10\n").unwrap();
        let files = ("memory.max", "memory.current");
        let outer = dir.path().join("a");
        assert_eq!(left(&inner, files, idle_cache), None);
        fs::write(outer.join("memory.max"), "100\n").unwrap();
        fs::write(outer.join("memory.current"), "70\n").unwrap();
        assert_eq!(left(&outer, files, idle_cache), Some(30));
        let stat = "anon 1\ninactive_file 50\nactive_file 7\n";
        fs::write(outer.join("memory.stat"), stat).unwrap();
        assert_eq!(left(&outer, files, idle_cache), Some(80));
        assert_eq!(left(&outer, files, any_cache), Some(87));
    }

    #[test]
    fn this_machine_has_some_memory_left() {
        assert!(headroom().unwrap() > 0);
    }
}
