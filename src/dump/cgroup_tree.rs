//! How cgroups are set up: owners, types, properties of those that tasks are
//! in and of those below.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use icecore_images::cgroup::{
    Cgroup, CgroupAttributes, CgroupFile, CgroupKind, CgroupProperty, CgroupRecords, CgroupVersion,
    MEMBER_FILES, is_property,
};
use rustix::io::Errno;

use super::{DumpContext, cgroup};
use crate::error::DumpError;
use crate::kernel::cgroupfs;
use crate::options::{CgroupProperties, CgroupRoot};

/// Describes everything that the image is to hold.
pub(super) fn collect(ctx: &mut DumpContext<'_>) -> Result<(), DumpError> {
    if ctx.tables.cgroups.state.records < CgroupRecords::Properties {
        return Ok(());
    }
    for hierarchy in 0..ctx.tables.cgroups.state.hierarchies.len() {
        let paths = paths(ctx, hierarchy)?;
        for path in paths {
            // What others remove meanwhile need not be made again.
            if let Some(found) = describe(ctx, hierarchy, &path).map_err(failed(ctx))? {
                ctx.tables.cgroups.state.hierarchies[hierarchy]
                    .cgroups
                    .push(found);
            }
        }
    }
    Ok(())
}

fn failed(ctx: &DumpContext<'_>) -> impl Fn(io::Error) -> DumpError + use<> {
    let pid = ctx.options.pid;
    move |source| DumpError::Read {
        pid,
        what: "its cgroups".to_owned(),
        source,
    }
}

/// Paths of the cgroups to be described, parents first.
fn paths(ctx: &DumpContext<'_>, at: usize) -> Result<BTreeSet<Vec<u8>>, DumpError> {
    let cgroups = &ctx.tables.cgroups;
    let hierarchy = &cgroups.state.hierarchies[at];
    let mut from: Vec<Vec<u8>> = cgroup::occupied(&cgroups.state, at)
        .into_iter()
        .map(|path| path.0)
        .collect();
    let all = cgroups.state.records == CgroupRecords::All;
    let unified = hierarchy.version == CgroupVersion::V2;
    let asked = CgroupRoot::of(&ctx.options.cgroups.roots, unified, &hierarchy.controllers);
    if all && asked.is_some() {
        from.push(hierarchy.root.0.clone());
    }
    // The root of a hierarchy always exists, and everything is below it.
    from.retain(|path| path != b"/");
    let mut paths = BTreeSet::new();
    for path in from {
        if let (true, Some(dir)) = (all, cgroups.dir(at, &path)) {
            walk(&dir, &path, &mut paths).map_err(failed(ctx))?;
        }
        paths.insert(path);
    }
    Ok(paths)
}

fn walk(dir: &Path, path: &[u8], found: &mut BTreeSet<Vec<u8>>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let below = [path, b"/", entry.file_name().as_bytes()].concat();
            walk(&entry.path(), &below, found)?;
            found.insert(below);
        }
    }
    Ok(())
}

fn describe(ctx: &DumpContext<'_>, at: usize, path: &[u8]) -> io::Result<Option<Cgroup>> {
    let cgroups = &ctx.tables.cgroups;
    let Some(dir) = cgroups.dir(at, path) else {
        return Ok(None);
    };
    match (attributes(&dir), properties(ctx, at, &dir)) {
        (Ok(attributes), Ok((properties, files))) => Ok(Some(Cgroup {
            path: path.into(),
            attributes,
            kind: kind(&dir),
            frozen: cgroupfs::is_frozen(&dir) || was_frozen(ctx, &dir),
            properties,
            files,
        })),
        (Err(e), _) | (_, Err(e)) if is_gone(&e) => Ok(None),
        (Err(e), _) | (_, Err(e)) => Err(e),
    }
}

fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::NOENT, Errno::NODEV].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|e| gone.contains(&e))
}

/// Whether it, or one above, was thawed for this dump.
fn was_frozen(ctx: &DumpContext<'_>, dir: &Path) -> bool {
    let mut thawed = ctx.tables.cgroups.thawed.iter();
    thawed.any(|frozen| dir.starts_with(frozen))
}

fn attributes(path: &Path) -> io::Result<CgroupAttributes> {
    let stat = fs::symlink_metadata(path)?;
    Ok(CgroupAttributes {
        uid: stat.uid(),
        gid: stat.gid(),
        mode: stat.mode() & 0o7777,
    })
}

fn kind(dir: &Path) -> Option<CgroupKind> {
    match cgroupfs::text(dir, "cgroup.type").as_str() {
        "domain" => Some(CgroupKind::Domain),
        "domain threaded" => Some(CgroupKind::DomainThreaded),
        "domain invalid" => Some(CgroupKind::DomainInvalid),
        "threaded" => Some(CgroupKind::Threaded),
        _ => None,
    }
}

type Files = (Vec<CgroupProperty>, Vec<CgroupFile>);

fn properties(ctx: &DumpContext<'_>, at: usize, dir: &Path) -> io::Result<Files> {
    let hierarchy = &ctx.tables.cgroups.state.hierarchies[at];
    let unified = hierarchy.version == CgroupVersion::V2;
    let (mut properties, mut files) = (Vec::new(), Vec::new());
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        names.extend(name.to_str().map(str::to_owned));
    }
    names.sort();
    for name in names {
        let path = dir.join(&name);
        if MEMBER_FILES.contains(&name.as_str()) {
            let attributes = attributes(&path)?;
            files.push(CgroupFile { name, attributes });
            continue;
        }
        let known = is_property(&name, &hierarchy.controllers);
        if !known || !path.is_file() {
            continue;
        }
        let attributes = attributes(&path)?;
        let usual = match unified {
            true => is_setting_of_v2(&name, attributes.mode),
            false => is_setting_of_v1(&name),
        };
        if !is_wanted(&ctx.options.cgroup_selection.properties, &name, usual) {
            continue;
        }
        if let Some(value) = value(ctx, dir, &name)? {
            properties.push(CgroupProperty {
                name,
                value: value.into(),
                attributes,
            });
        }
    }
    Ok((properties, files))
}

/// What `--cgroup-props` says of a property that is among the `usual` or not.
fn is_wanted(specified: &[CgroupProperties], name: &str, usual: bool) -> bool {
    let controller = name.split('.').next().unwrap_or_default();
    let latest = specified.iter().rev().find(|s| s.controller == controller);
    latest.map_or(usual, |s| {
        s.names.iter().any(|wanted| wanted == name) || (usual && !s.replace)
    })
}

/// Files of version 2 that can be read and written set something up. Others
/// than these: triggers, high-water marks, another name of `cpu.weight`, and
/// the type, which is a field of its own.
fn is_setting_of_v2(name: &str, mode: u32) -> bool {
    let trigger = name.ends_with(".pressure") && name != "cgroup.pressure";
    let other = ["cgroup.type", "cpu.weight.nice"].contains(&name);
    mode & 0o600 == 0o600 && !trigger && !other && !name.ends_with(".peak")
}

/// Version 1 mixes settings with counters that can be set to zero.
fn is_setting_of_v1(name: &str) -> bool {
    const SETTINGS: [&str; 53] = [
        "cgroup.clone_children",
        "notify_on_release",
        "cpu.cfs_burst_us",
        "cpu.cfs_period_us",
        "cpu.cfs_quota_us",
        "cpu.idle",
        "cpu.rt_period_us",
        "cpu.rt_runtime_us",
        "cpu.shares",
        "cpu.uclamp.max",
        "cpu.uclamp.min",
        "cpuset.cpu_exclusive",
        "cpuset.cpus",
        "cpuset.mem_exclusive",
        "cpuset.mem_hardwall",
        "cpuset.memory_migrate",
        "cpuset.memory_spread_page",
        "cpuset.memory_spread_slab",
        "cpuset.mems",
        "cpuset.sched_load_balance",
        "cpuset.sched_relax_domain_level",
        "memory.kmem.limit_in_bytes",
        "memory.kmem.tcp.limit_in_bytes",
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
        "memory.move_charge_at_immigrate",
        "memory.oom_control",
        "memory.soft_limit_in_bytes",
        "memory.swappiness",
        "memory.use_hierarchy",
        "blkio.bfq.weight",
        "blkio.bfq.weight_device",
        "blkio.cost.weight",
        "blkio.latency",
        "blkio.leaf_weight",
        "blkio.leaf_weight_device",
        "blkio.prio.class",
        "blkio.throttle.read_bps_device",
        "blkio.throttle.read_iops_device",
        "blkio.throttle.write_bps_device",
        "blkio.throttle.write_iops_device",
        "blkio.weight",
        "blkio.weight_device",
        "pids.max",
        "devices.list",
        "freezer.state",
        "net_cls.classid",
        "net_prio.ifpriomap",
        "rdma.max",
        "misc.max",
        "dmem.max",
        "dmem.min",
        "dmem.low",
    ];
    let huge = name.starts_with("hugetlb.") && name.ends_with("limit_in_bytes");
    huge || SETTINGS.contains(&name)
}

/// What a property says, in the words in which it can be set; `None` where this
/// kernel has the file and no use for it.
fn value(ctx: &DumpContext<'_>, dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let frozen = ctx.tables.cgroups.thawed.iter().any(|thawed| thawed == dir)
        || cgroupfs::freezes_itself(dir);
    let read = cgroupfs::setting(dir, name)?;
    Ok(match name {
        "freezer.state" if frozen => Some(b"FROZEN".to_vec()),
        "freezer.state" => Some(b"THAWED".to_vec()),
        "cgroup.freeze" => Some(u8::from(frozen).to_string().into_bytes()),
        _ => read,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specified(replace: bool) -> Vec<CgroupProperties> {
        vec![CgroupProperties {
            controller: "memory".to_owned(),
            replace,
            names: vec!["memory.numa_stat".to_owned()],
        }]
    }

    #[test]
    fn specified_properties_replace_the_usual_or_add_to_them() {
        assert!(is_wanted(&specified(true), "memory.numa_stat", false));
        assert!(!is_wanted(&specified(true), "memory.max", true));
        assert!(is_wanted(&specified(false), "memory.max", true));
        assert!(is_wanted(&specified(true), "cpu.shares", true));
        assert!(!is_wanted(&[], "memory.numa_stat", false));
    }

    #[test]
    fn settings_are_told_from_counters_and_triggers() {
        assert!(is_setting_of_v2("memory.max", 0o644));
        assert!(is_setting_of_v2("cgroup.pressure", 0o644));
        for other in ["memory.pressure", "memory.peak", "cpu.weight.nice"] {
            assert!(!is_setting_of_v2(other, 0o644), "{other}");
        }
        assert!(!is_setting_of_v2("memory.stat", 0o444));
        assert!(is_setting_of_v1("hugetlb.2MB.rsvd.limit_in_bytes"));
        assert!(!is_setting_of_v1("memory.max_usage_in_bytes"));
    }
}
