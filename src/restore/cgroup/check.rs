//! One hierarchy held against this machine: what exists and what does not,
//! what may be written, what the kernel would refuse.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use icecore_images::cgroup::{Cgroup, CgroupKind, CgroupMode, CgroupProperty};
use rustix::fs::{Access, access};

use super::plan::HELP_IGNORE;
use super::{Spot, Wanted, limit, sets};
use crate::kernel::cgroupfs;
use crate::restore::RestoreContext;

const HELP_NONE: &str = "--manage-cgroups=none enters cgroups that exist and sets nothing, ignore \
    leaves the task in icecore's own";

/// Notes every obstacle in a hierarchy.
pub(super) fn spot(ctx: &mut RestoreContext<'_>, spot: &Spot<'_>) {
    let mut lacking = BTreeSet::new();
    for (path, wanted) in &spot.wanted {
        if spot.here.dir(&spot.path(path)).is_none() {
            let problem = "is outside of what is mounted of its hierarchy".to_owned();
            ctx.obstacle(spot.place(path), problem, Some(HELP_IGNORE));
            continue;
        }
        let dir = spot.dir(path);
        match dir.is_dir() {
            true => existing(ctx, spot, path, *wanted, &dir),
            false => missing(ctx, spot, path, &dir),
        }
        let mode = ctx.options.cgroups.mode;
        if let Some(cgroup) = wanted.recorded
            && sets(mode, dir.is_dir())
            && !spot.is_mount_root(&dir)
        {
            properties(ctx, spot, cgroup, &dir, &mut lacking);
        }
    }
    limit::plan(ctx, spot);
}

fn existing(
    ctx: &mut RestoreContext<'_>,
    spot: &Spot<'_>,
    path: &[u8],
    wanted: Wanted<'_>,
    dir: &Path,
) {
    let mode = ctx.options.cgroups.mode;
    let place = spot.place(path);
    if mode == CgroupMode::Strict && !spot.is_mount_root(dir) && wanted.recorded.is_some() {
        let problem = "exists already".to_owned();
        let help = "remove it, give another --cgroup-root, or use it with --manage-cgroups=soft \
            or full";
        return ctx.obstacle(place, problem, Some(help));
    }
    if !wanted.has_members && !wanted.is_root {
        return;
    }
    if let Err(e) = access(dir.join("cgroup.procs"), Access::WRITE_OK) {
        let problem = format!("cannot be entered: {e}");
        return ctx.obstacle(place, problem, Some(HELP_IGNORE));
    }
    if cgroupfs::is_frozen(dir) {
        let problem = "is frozen: what enters it stands still".to_owned();
        ctx.obstacle(place.clone(), problem, Some("thaw it first"));
    }
    if let Some(problem) = takes_nobody(spot, wanted, dir) {
        ctx.obstacle(place.clone(), problem, Some(HELP_IGNORE));
    }
    let cpus = cgroupfs::text(dir, "cpuset.cpus");
    let empty = dir.join("cpuset.cpus").exists() && !spot.unified() && cpus.is_empty();
    if empty && !mode.sets_existing() {
        let problem = "has no processors (cpuset.cpus is empty) and takes nobody".to_owned();
        let help = "fill cpuset.cpus and cpuset.mems, or have them set by --manage-cgroups=full";
        ctx.obstacle(place, problem, Some(help));
    }
}

/// Why version 2 would not let a process, or a thread alone, in.
fn takes_nobody(spot: &Spot<'_>, wanted: Wanted<'_>, dir: &Path) -> Option<String> {
    if !spot.unified() || spot.is_mount_root(dir) {
        return None;
    }
    let kind = cgroupfs::text(dir, "cgroup.type");
    let enabled = cgroupfs::text(dir, "cgroup.subtree_control");
    if kind == "domain invalid" {
        return Some("takes nobody: its type is domain invalid".to_owned());
    }
    if kind == "domain" && !enabled.is_empty() {
        return Some(format!(
            "takes nobody: controllers are enabled for its children ({enabled})"
        ));
    }
    let was = wanted.recorded.and_then(|cgroup| cgroup.kind);
    (was == Some(CgroupKind::Threaded) && kind != "threaded").then(|| {
        format!("its type is {kind}, and was threaded: threads of one process are kept apart by it")
    })
}

fn missing(ctx: &mut RestoreContext<'_>, spot: &Spot<'_>, path: &[u8], dir: &Path) {
    let mode = ctx.options.cgroups.mode;
    let place = spot.place(path);
    if !mode.creates() {
        let problem = "does not exist".to_owned();
        let help = "make it, or have it made by --manage-cgroups=soft";
        return ctx.obstacle(place, problem, Some(help));
    }
    if let Err(e) = access(nearest(dir), Access::WRITE_OK) {
        let problem = format!("cannot be made: {e}");
        ctx.obstacle(place, problem, Some(HELP_IGNORE));
    }
}

/// The directory itself, or the nearest one above that exists.
fn nearest(dir: &Path) -> PathBuf {
    let found = dir.ancestors().find(|dir| dir.is_dir());
    found.unwrap_or(dir).to_owned()
}

/// Notes properties that could not be set; a controller that is not there is
/// noted once.
fn properties(
    ctx: &mut RestoreContext<'_>,
    spot: &Spot<'_>,
    cgroup: &Cgroup,
    dir: &Path,
    lacking: &mut BTreeSet<String>,
) {
    let base = nearest(dir);
    for property in &cgroup.properties {
        if let Some(problem) = controller(ctx, spot, cgroup, property, &base, lacking) {
            let help = format!(
                "echo +{} > {}, or leave it out; {HELP_NONE}",
                prefix(&property.name),
                base.join("cgroup.subtree_control").display()
            );
            ctx.obstacle(spot.place(&cgroup.path.0), problem, Some(&help));
            continue;
        }
        let problem = match lacking.contains(prefix(&property.name)) {
            true => None,
            false => refused(spot, property, dir, &base),
        };
        if let Some(problem) = problem {
            ctx.obstacle(spot.place(&cgroup.path.0), problem, Some(HELP_NONE));
        }
    }
}

fn prefix(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// Why the controller of a property is not there for a cgroup of version 2
/// that is to be made below `base`, unless that has been noted already.
fn controller(
    ctx: &RestoreContext<'_>,
    spot: &Spot<'_>,
    cgroup: &Cgroup,
    property: &CgroupProperty,
    base: &Path,
    lacking: &mut BTreeSet<String>,
) -> Option<String> {
    let dir = spot.dir(&cgroup.path.0);
    if !spot.unified() || dir == base {
        return None;
    }
    let recorded = spot.wanted.iter().find(|(path, _)| spot.dir(path) == base);
    let recorded = recorded.and_then(|(_, wanted)| wanted.recorded);
    if recorded.is_some() && ctx.options.cgroups.mode.sets_existing() {
        return None; // what it enables is set, too
    }
    let names: Vec<String> = match property.name.as_str() {
        "cgroup.subtree_control" => words(&property.value.0),
        name if prefix(name) == "cgroup" || limit::is_none(name, &property.value.0) => Vec::new(),
        name => vec![prefix(name).to_owned()],
    };
    let enabled = words(cgroupfs::text(base, "cgroup.subtree_control").as_bytes());
    let missing = names.into_iter().find(|name| !enabled.contains(name))?;
    if !lacking.insert(missing.clone()) {
        return None;
    }
    Some(match spot.here.controllers.contains(&missing) {
        true => format!("controller {missing} is not enabled in {}", base.display()),
        false => format!("controller {missing} is not in cgroup2 here"),
    })
}

pub(super) fn words(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    text.split_whitespace().map(str::to_owned).collect()
}

/// Why the kernel would refuse a property, as far as can be told beforehand.
fn refused(spot: &Spot<'_>, property: &CgroupProperty, dir: &Path, base: &Path) -> Option<String> {
    let (name, value) = (
        property.name.as_str(),
        String::from_utf8_lossy(&property.value.0),
    );
    if limit::is_none(name, &property.value.0) {
        return None;
    }
    // The root of a hierarchy lacks files that others have.
    let known =
        spot.is_mount_root(base) || (spot.unified() && dir != base) || base.join(name).exists();
    if !known {
        return Some(format!(
            "has no {name}: this kernel lacks it, or its controller"
        ));
    }
    match name {
        "cpuset.cpus" | "cpuset.mems" => beyond(name, &value, base),
        _ if is_by_device(name) => value.lines().find_map(|line| no_device(name, line)),
        _ => None,
    }
}

/// Properties with a line for each block device.
fn is_by_device(name: &str) -> bool {
    name.ends_with("_device") || ["io.max", "io.latency"].contains(&name)
}

fn no_device(name: &str, line: &str) -> Option<String> {
    let device = line.split_whitespace().next()?;
    let exists = Path::new("/sys/dev/block").join(device).exists();
    (!exists).then(|| format!("{name} limits block device {device}, which is not here"))
}

fn beyond(name: &str, value: &str, base: &Path) -> Option<String> {
    let (controller, what) = name.split_once('.')?;
    let files = [
        format!("{controller}.effective_{what}"),
        format!("{name}.effective"),
        name.to_owned(),
    ];
    let there = files.iter().map(|file| cgroupfs::text(base, file));
    let there = there.into_iter().find(|text| !text.is_empty())?;
    let (wanted, have) = (list(value)?, list(&there)?);
    let missing = wanted.difference(&have).next()?;
    Some(format!(
        "{name} is {value}, and there is no {missing} here, but {there}"
    ))
}

/// `0-2,7`.
fn list(text: &str) -> Option<BTreeSet<u32>> {
    const MOST: u32 = 1 << 16;
    let mut all = BTreeSet::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        all.extend(first..=last.min(MOST));
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read() {
        let read = |text| list(text).map(|all| all.into_iter().collect::<Vec<_>>());
        assert_eq!(read("0-2,7"), Some(vec![0, 1, 2, 7]));
        assert_eq!(read(""), Some(vec![]));
        assert_eq!(read("x"), None);
    }

    #[test]
    fn devices_are_looked_for() {
        assert!(no_device("io.max", "4095:1048575 wbps=1").is_some());
        assert!(is_by_device("blkio.throttle.read_bps_device"));
        assert!(!is_by_device("devices.list"));
    }
}
