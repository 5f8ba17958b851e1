//! Limits: which properties are, and whether what is restored fits.

use icecore_images::cgroup::below;
use icecore_images::mm::MmState;
use icecore_images::pages::{PAGE_SIZE, PageSource};
use procfs::Current;

use super::Spot;
use super::set::{Setting, write};
use crate::error::RestoreError;
use crate::kernel::cgroupfs;
use crate::restore::RestoreContext;

const HELP: &str = "raise the limit, or enter another cgroup (--cgroup-root); \
    --manage-cgroups=none sets no limits, ignore leaves the task in icecore's own cgroups";

/// Files that limit memory, of either version.
const MEMORY: [&str; 2] = ["memory.limit_in_bytes", "memory.max"];

/// Whether a property stands in the way of a restore at work: it comes when all
/// is filled.
pub(super) fn is_late(name: &str) -> bool {
    let memory = name.starts_with("memory.") && !name.ends_with("swappiness");
    let cpu = [
        "cpu.cfs_quota_us",
        "cpu.max",
        "cpu.cfs_burst_us",
        "cpu.cfs_period_us",
    ];
    memory || cpu.contains(&name) || name == "pids.max" || name.starts_with("hugetlb.")
}

/// Whether it makes everyone stand still.
pub(super) fn is_freezer(name: &str) -> bool {
    ["freezer.state", "cgroup.freeze"].contains(&name)
}

/// Whether a value of version 2 says what holds without its controller.
pub(super) fn is_none(name: &str, value: &[u8]) -> bool {
    let ends = |end: &str| name.ends_with(end);
    match value {
        b"" => true,
        b"max" => ends(".max") || ends(".high") || ends(".uclamp.max"),
        b"0" => ends(".low") || ends(".min") || ends(".group") || ends(".idle") || ends(".burst"),
        b"max 100000" => name == "cpu.max",
        b"100" => name == "cpu.weight",
        b"0.00" => ends(".uclamp.min"),
        b"default 100" => ends(".weight"),
        b"member" => ends(".partition"),
        b"1" => ends(".writeback"),
        _ => false,
    }
}

/// A limit in bytes; `None` where there is none.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let limit = text.trim().parse::<u64>().ok()?;
    (limit < i64::MAX as u64 - PAGE_SIZE).then_some(limit)
}

/// Notes limits of memory below what the image holds: whoever is filled into
/// such a cgroup is killed. With swap there is room elsewhere.
pub(super) fn plan(ctx: &mut RestoreContext<'_>, spot: &Spot<'_>) {
    let swap = procfs::Meminfo::current().map_or(0, |info| info.swap_total);
    if swap > 0 {
        return;
    }
    let mode = ctx.options.cgroups.mode;
    for (path, wanted) in &spot.wanted {
        let dir = spot.dir(path);
        let recorded = wanted.recorded.filter(|_| super::sets(mode, dir.is_dir()));
        let mut recorded = recorded.into_iter().flat_map(|cgroup| &cgroup.properties);
        let recorded = recorded.find(|p| MEMORY.contains(&p.name.as_str()));
        let limit = match recorded {
            Some(property) => bytes(&String::from_utf8_lossy(&property.value.0)),
            None => MEMORY
                .iter()
                .find_map(|name| bytes(&cgroupfs::text(&dir, name))),
        };
        let needed = needed(ctx, spot, path);
        if let Some(limit) = limit.filter(|limit| *limit < needed) {
            let problem = format!(
                "may hold {limit} bytes of memory, and the tasks in it have {needed} in the image"
            );
            ctx.obstacle(spot.place(path), problem, Some(HELP));
        }
    }
}

/// Bytes of the address spaces in or below a cgroup.
fn needed(ctx: &RestoreContext<'_>, spot: &Spot<'_>, path: &[u8]) -> u64 {
    let image = ctx.image;
    let inside = |set: icecore_images::ids::CgroupSetId| {
        let set = image.cgroups.sets.get(set.0 as usize);
        let own = set.and_then(|set| set.paths.get(spot.at));
        own.is_some_and(|own| below(&own.0, path).is_some())
    };
    let tasks = image.tasks.iter().filter(|task| {
        let leader = task.threads.first().and_then(|thread| thread.cgroups);
        leader.is_some_and(inside)
    });
    let mut mms: Vec<_> = tasks.map(|task| task.mm.0).collect();
    mms.sort_unstable();
    mms.dedup();
    let mms = mms.into_iter().filter_map(|id| image.mms.get(id as usize));
    mms.map(stored).sum()
}

fn stored(mm: &MmState) -> u64 {
    let in_files = mm.pages.iter();
    let in_files = in_files.filter(|extent| matches!(extent.source, PageSource::File { .. }));
    in_files
        .map(|extent| extent.count.saturating_mul(PAGE_SIZE))
        .sum()
}

/// Has the kernel reclaim what a limit leaves no room for, and fails where it
/// cannot: to set such a limit would kill the task.
pub(super) fn make_room(setting: &Setting) -> Result<(), RestoreError> {
    if !MEMORY.contains(&setting.name.as_str()) {
        return Ok(());
    }
    let Some(limit) = bytes(&String::from_utf8_lossy(&setting.value)) else {
        return Ok(());
    };
    let usage = || {
        let files = ["memory.current", "memory.usage_in_bytes"];
        let found = files
            .iter()
            .find_map(|name| bytes(&cgroupfs::text(&setting.dir, name)));
        found.unwrap_or(0)
    };
    let beyond = usage().saturating_sub(limit);
    if beyond > 0 {
        // Not all is always to be had, nor need be: the usage counts.
        let _ = write(
            &setting.dir.join("memory.reclaim"),
            beyond.to_string().as_bytes(),
        );
        let _ = write(&setting.dir.join("memory.force_empty"), b"0");
    }
    match usage() {
        used if used > limit => Err(setting.failed(std::io::Error::other(format!(
            "{used} bytes are in use by now, and setting the limit would kill the task"
        )))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_limit_nothing_need_no_controller() {
        assert!(is_none("hugetlb.2MB.max", b"max"));
        assert!(is_none("memory.low", b"0"));
        assert!(!is_none("memory.max", b"0"));
        assert!(!is_none("pids.max", b"7"));
    }

    #[test]
    fn limits_are_told_from_none() {
        assert_eq!(bytes("4096"), Some(4096));
        assert_eq!(bytes("9223372036854771712"), None);
        assert_eq!(bytes("max"), None);
        assert!(is_late("memory.max") && is_late("pids.max"));
        assert!(!is_late("memory.swappiness") && !is_late("cpuset.cpus"));
    }
}
