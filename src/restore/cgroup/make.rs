//! Making cgroups that are missing and setting them up, before there is any
//! process to be in them. Whatever the kernel refuses is listed together.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use icecore_images::cgroup::{Cgroup, CgroupAttributes, CgroupKind, CgroupMode};

use super::check::words;
use super::made::Made;
use super::set::{self, Setting, write};
use super::{Spot, limit, namespace, sets};
use crate::blocker::{Obstacle, Place};
use crate::error::RestoreError;
use crate::kernel::cgroupfs;
use crate::restore::RestoreContext;

/// Makes and sets up everything; `None` where cgroups are left alone.
pub(in crate::restore) fn make(ctx: &RestoreContext<'_>) -> Result<Option<Made>, RestoreError> {
    let mode = ctx.options.cgroups.mode;
    if !mode.acts() {
        return Ok(None);
    }
    let mut made = Made::new().map_err(|source| RestoreError::Rebuild {
        what: "cgroups: start a guardian process".to_owned(),
        source,
    })?;
    for spot in &ctx.cgroups {
        create_missing(mode, &mut made, spot)?;
    }
    namespace::make(ctx, &mut made)?;
    for spot in &ctx.cgroups {
        arrange(&mut made, spot)?;
    }
    let refused = set_up(mode, ctx, &mut made);
    if !refused.is_empty() {
        let obstacles = refused.iter().map(obstacle).collect();
        return Err(RestoreError::Obstacles { obstacles });
    }
    for spot in &ctx.cgroups {
        hand_over(&made, spot)?;
    }
    Ok(Some(made))
}

fn obstacle((setting, error): &(Setting, io::Error)) -> Obstacle {
    let problem = format!("the kernel refuses {}: {error}", setting.shown());
    let help = "--manage-cgroups=none enters cgroups that exist and sets nothing, ignore leaves \
        the task in icecore's own";
    Obstacle {
        place: Place::Path {
            path: setting.label.clone(),
        },
        problem,
        help: Some(help.to_owned()),
    }
}

fn failed(what: String) -> impl FnOnce(io::Error) -> RestoreError {
    move |source| RestoreError::Rebuild { what, source }
}

/// Makes every directory that is missing, and those above it.
fn create_missing(mode: CgroupMode, made: &mut Made, spot: &Spot<'_>) -> Result<(), RestoreError> {
    for (path, wanted) in &spot.wanted {
        let dir = spot.dir(path);
        let what = || format!("cgroup {}", spot.label(path));
        let Some(point) = spot.here.mount_point() else {
            continue;
        };
        let inside = |above: &&Path| above.starts_with(point) && *above != point;
        let mut above: Vec<&Path> = dir.ancestors().filter(inside).collect();
        above.reverse();
        for one in above {
            if one.is_dir() {
                continue;
            }
            let created = made.create(one).map_err(failed(what()))?;
            if !created && mode == CgroupMode::Strict && one == dir {
                let source = io::ErrorKind::AlreadyExists.into();
                return Err(failed(what())(source));
            }
            if created {
                inherit(spot, one).map_err(failed(what()))?;
            }
        }
        if let Some(cgroup) = wanted.recorded
            && made.created.contains(&dir)
        {
            devices_first(made, spot, cgroup, &dir)?;
        }
    }
    Ok(())
}

/// A cpuset of version 1 has nothing at first, and lets nobody in.
fn inherit(spot: &Spot<'_>, dir: &Path) -> io::Result<()> {
    if spot.unified() {
        return Ok(());
    }
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let (file, above) = (dir.join(name), dir.parent().unwrap_or(dir));
        if file.exists() && cgroupfs::text(dir, name).is_empty() {
            write(&file, cgroupfs::text(above, name).as_bytes())?;
        }
    }
    Ok(())
}

fn devices_first(
    made: &mut Made,
    spot: &Spot<'_>,
    cgroup: &Cgroup,
    dir: &Path,
) -> Result<(), RestoreError> {
    let mut lists = cgroup.properties.iter();
    let Some(list) = lists.find(|property| property.name == "devices.list") else {
        return Ok(());
    };
    let setting = Setting::new(dir, spot.label(&cgroup.path.0), list);
    let refused = set::all(made, vec![setting]).into_iter().next();
    refused.map_or(Ok(()), |(setting, source)| Err(setting.failed(source)))
}

/// Types, and controllers for the children of those that were only made to
/// lead to others.
fn arrange(made: &mut Made, spot: &Spot<'_>) -> Result<(), RestoreError> {
    if !spot.unified() {
        return Ok(());
    }
    for (path, wanted) in &spot.wanted {
        let dir = spot.dir(path);
        let threaded = wanted.recorded.and_then(|c| c.kind) == Some(CgroupKind::Threaded);
        if threaded && made.created.contains(&dir) {
            let what = format!("cgroup {}: make it threaded", spot.label(path));
            write(&dir.join("cgroup.type"), b"threaded").map_err(failed(what))?;
        }
    }
    for dir in &made.created {
        let mut below = spot.wanted.iter().filter(|(path, _)| {
            let one = spot.dir(path);
            one.starts_with(dir) && one != *dir
        });
        let is_wanted = spot
            .wanted
            .iter()
            .any(|(path, wanted)| wanted.recorded.is_some() && spot.dir(path) == *dir);
        if is_wanted || below.clone().next().is_none() {
            continue;
        }
        let needed = below.by_ref().filter_map(|(_, wanted)| wanted.recorded);
        let needed: BTreeSet<String> = needed.flat_map(controllers).collect();
        for name in needed {
            let what = format!("enable controller {name} in {}", dir.display());
            let enable = format!("+{name}");
            write(&dir.join("cgroup.subtree_control"), enable.as_bytes()).map_err(failed(what))?;
        }
    }
    Ok(())
}

/// Controllers that a cgroup of version 2 needs.
fn controllers(cgroup: &Cgroup) -> Vec<String> {
    let of = |name: &str, value: &[u8]| match name.split_once('.') {
        Some(("cgroup", "subtree_control")) => words(value),
        Some(("cgroup", _)) | None => Vec::new(),
        Some(_) if limit::is_none(name, value) => Vec::new(),
        Some((controller, _)) => vec![controller.to_owned()],
    };
    let all = cgroup.properties.iter();
    all.flat_map(|p| of(&p.name, &p.value.0)).collect()
}

/// Sets all properties but those that come later, and tries those where that
/// harms nobody.
fn set_up(
    mode: CgroupMode,
    ctx: &RestoreContext<'_>,
    made: &mut Made,
) -> Vec<(Setting, io::Error)> {
    let (mut control, mut early, mut attempts) = (Vec::new(), Vec::new(), Vec::new());
    for spot in &ctx.cgroups {
        for (path, wanted) in &spot.wanted {
            let (dir, label) = (spot.dir(path), spot.label(path));
            let ours = made.created.contains(&dir);
            let Some(cgroup) = wanted.recorded.filter(|_| sets(mode, !ours)) else {
                continue;
            };
            if spot.is_mount_root(&dir) {
                continue;
            }
            for property in &cgroup.properties {
                let setting = Setting::new(&dir, label.clone(), property);
                let name = property.name.as_str();
                if name == "cgroup.subtree_control" {
                    control.push(setting);
                } else if limit::is_freezer(name) {
                    made.freezers.push(setting);
                } else if spot.unified() && limit::is_none(name, &property.value.0) && ours {
                    // A cgroup of ours limits nothing at first.
                } else if limit::is_late(name) {
                    attempts.extend(ours.then(|| setting.clone()));
                    made.late.push(setting);
                } else {
                    early.push(setting);
                }
            }
        }
    }
    let mut refused = set::all(made, control);
    refused.extend(set::all(made, early));
    refused.extend(set::attempt(made, &attempts));
    refused
}

/// Owners and permissions of what was made.
fn hand_over(made: &Made, spot: &Spot<'_>) -> Result<(), RestoreError> {
    for (path, wanted) in &spot.wanted {
        let dir = spot.dir(path);
        let Some(cgroup) = wanted.recorded.filter(|_| made.created.contains(&dir)) else {
            continue;
        };
        let properties = cgroup.properties.iter().map(|p| (&p.name, &p.attributes));
        let files = cgroup.files.iter().map(|f| (&f.name, &f.attributes));
        for (name, attributes) in properties.chain(files) {
            let file = dir.join(name);
            let what = || format!("cgroup {}: owner of {name}", spot.label(path));
            if file.exists() {
                dress(&file, attributes).map_err(failed(what()))?;
            }
        }
        let what = format!("cgroup {}: its owner", spot.label(path));
        dress(&dir, &cgroup.attributes).map_err(failed(what))?;
    }
    Ok(())
}

fn dress(path: &Path, wanted: &CgroupAttributes) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let now = std::fs::symlink_metadata(path)?;
    if (now.uid(), now.gid()) != (wanted.uid, wanted.gid) {
        std::os::unix::fs::lchown(path, Some(wanted.uid), Some(wanted.gid))?;
    }
    if now.mode() & 0o7777 != wanted.mode {
        let mode = std::fs::Permissions::from_mode(wanted.mode);
        std::fs::set_permissions(path, mode)?;
    }
    Ok(())
}
