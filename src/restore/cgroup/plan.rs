//! What the mode asks for and this machine does not have, found before
//! anything is made.

use std::collections::BTreeMap;

use icecore_images::ByteString;
use icecore_images::cgroup::{
    Cgroup, CgroupHierarchy, CgroupMode, CgroupRecords, CgroupVersion, CgroupsState,
};
use rustix::thread::CapabilitySet;

use super::{Spot, Wanted, check};
use crate::blocker::Place;
use crate::kernel::cgroupfs::{self, Hierarchy};
use crate::options::CgroupRoot;
use crate::restore::RestoreContext;

/// What leaves all cgroups alone.
pub(super) const HELP_IGNORE: &str =
    "--manage-cgroups=ignore leaves the task in icecore's own cgroups";

/// Notes every obstacle, and where everything comes to be.
pub(in crate::restore) fn plan(ctx: &mut RestoreContext<'_>) {
    let mode = ctx.options.cgroups.mode;
    if !mode.acts() {
        if mode == CgroupMode::NotGiven {
            say_where_it_stays(ctx);
        }
        return;
    }
    if !holds_enough(ctx) {
        return;
    }
    let here = match cgroupfs::hierarchies(ctx.options.cgroups.yard.as_deref()) {
        Ok(here) => here,
        Err(e) => {
            let problem = format!("its cgroups cannot be read: {e}");
            return ctx.obstacle(Place::Machine, problem, Some(HELP_IGNORE));
        }
    };
    let image = ctx.image;
    let mut spots = Vec::new();
    for (at, hierarchy) in image.cgroups.hierarchies.iter().enumerate() {
        let wanted = wanted(mode, &image.cgroups, at);
        let asked = asked_root(ctx, hierarchy);
        let matters = asked.is_some() || wanted.keys().any(|path| path != b"/");
        let Some(here) = find(ctx, hierarchy, &here, matters) else {
            continue;
        };
        let root = asked.unwrap_or_else(|| hierarchy.root.0.clone());
        spots.push(Spot {
            at,
            image: hierarchy,
            here,
            root,
            wanted,
        });
    }
    for spot in &spots {
        check::spot(ctx, spot);
    }
    namespaces(ctx);
    ctx.cgroups = spots;
}

/// Whether the image holds what the mode makes use of.
fn holds_enough(ctx: &mut RestoreContext<'_>) -> bool {
    let (mode, state) = (ctx.options.cgroups.mode, &ctx.image.cgroups);
    let needed = mode.records();
    if state.records >= needed {
        return true;
    }
    let words = |records: CgroupRecords| match records {
        CgroupRecords::Nothing => "nothing about cgroups",
        CgroupRecords::Membership => "who was in which cgroup",
        CgroupRecords::Properties => "cgroups with tasks and their properties",
        CgroupRecords::All => "all cgroups with their properties",
    };
    let dumped = match state.mode.name() {
        Some(name) => format!("with --manage-cgroups={name}"),
        None => "without --manage-cgroups".to_owned(),
    };
    let problem = format!(
        "it holds {}, --manage-cgroups={} needs {}: it was dumped {dumped}",
        words(state.records),
        mode.name().unwrap_or_default(),
        words(needed),
    );
    let help = match state.records {
        CgroupRecords::Nothing => HELP_IGNORE,
        CgroupRecords::Membership => "--manage-cgroups=none or ignore make do with that",
        _ => "--manage-cgroups=none, props or ignore make do with that",
    };
    let place = Place::Path {
        path: ctx.options.images_dir.display().to_string(),
    };
    ctx.obstacle(place, problem, Some(help));
    false
}

fn asked_root(ctx: &RestoreContext<'_>, hierarchy: &CgroupHierarchy) -> Option<Vec<u8>> {
    let unified = hierarchy.version == CgroupVersion::V2;
    let roots = &ctx.options.cgroups.roots;
    CgroupRoot::of(roots, unified, &hierarchy.controllers).map(<[u8]>::to_vec)
}

/// The cgroups of a hierarchy that a mode makes use of.
fn wanted(mode: CgroupMode, state: &CgroupsState, at: usize) -> BTreeMap<Vec<u8>, Wanted<'_>> {
    let mut wanted: BTreeMap<Vec<u8>, Wanted<'_>> = BTreeMap::new();
    for path in state.sets.iter().filter_map(|set| set.paths.get(at)) {
        wanted.entry(path.0.clone()).or_default().has_members = true;
    }
    for path in state.namespaces.iter().filter_map(|ns| ns.roots.get(at)) {
        wanted.entry(path.0.clone()).or_default().is_root = true;
    }
    let recorded: &[Cgroup] = match mode {
        CgroupMode::None => &[],
        _ => &state.hierarchies[at].cgroups,
    };
    for cgroup in recorded {
        let known = wanted.contains_key(&cgroup.path.0);
        if known || mode.creates() {
            wanted.entry(cgroup.path.0.clone()).or_default().recorded = Some(cgroup);
        }
    }
    wanted
}

/// The hierarchy of this machine that has the same controllers.
fn find(
    ctx: &mut RestoreContext<'_>,
    wanted: &CgroupHierarchy,
    here: &[Hierarchy],
    matters: bool,
) -> Option<Hierarchy> {
    let unified = wanted.version == CgroupVersion::V2;
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names
    };
    let same = |h: &&Hierarchy| {
        h.unified == unified && (unified || sorted(&h.controllers) == sorted(&wanted.controllers))
    };
    let found = here.iter().find(same);
    if let Some(found) = found.filter(|h| h.mount_point().is_some()) {
        return Some(found.clone());
    }
    // Everyone is in the root of each hierarchy, also of one that is not there.
    if matters {
        let name = cgroupfs::name(unified, &wanted.controllers);
        let (problem, help) = match found {
            Some(_) => (
                format!("cgroup hierarchy {name} is not mounted"),
                format!("mount it, or name where it is with --cgroup-yard; {HELP_IGNORE}"),
            ),
            None => (
                format!("has no cgroup hierarchy {name}{}", instead(wanted, here)),
                HELP_IGNORE.to_owned(),
            ),
        };
        ctx.obstacle(Place::Machine, problem, Some(&help));
    }
    None
}

/// Where the controllers of a missing hierarchy are.
fn instead(wanted: &CgroupHierarchy, here: &[Hierarchy]) -> String {
    let has = |h: &&Hierarchy| h.controllers.iter().any(|c| wanted.controllers.contains(c));
    let names: Vec<String> = here.iter().filter(has).map(Hierarchy::name).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(": its controllers belong to {} here", names.join(" and ")),
    }
}

fn namespaces(ctx: &mut RestoreContext<'_>) {
    let needed = !ctx.image.cgroups.namespaces.is_empty();
    if needed && !ctx.has_capability(CapabilitySet::SYS_ADMIN) {
        let problem = "a cgroup namespace cannot be made without CAP_SYS_ADMIN".to_owned();
        ctx.obstacle(Place::Machine, problem, Some(HELP_IGNORE));
    }
}

/// Says where a task is now that was elsewhere, and nobody has said what to do
/// about it.
fn say_where_it_stays(ctx: &mut RestoreContext<'_>) {
    let Ok(own) = cgroupfs::memberships(std::process::id()) else {
        return; // a kernel without cgroups
    };
    let state = &ctx.image.cgroups;
    let (mut was, mut is) = (Vec::new(), Vec::new());
    for (at, hierarchy) in state.hierarchies.iter().enumerate() {
        let unified = hierarchy.version == CgroupVersion::V2;
        let name = cgroupfs::name(unified, &hierarchy.controllers);
        let ours = own.iter().find(|member| {
            member.unified == unified && (unified || member.controllers == hierarchy.controllers)
        });
        let ours = ours.map_or(&b"/"[..], |member| member.path.as_slice());
        let mut others: Vec<&ByteString> = state
            .sets
            .iter()
            .filter_map(|set| set.paths.get(at))
            .filter(|path| path.0 != ours)
            .collect();
        others.sort();
        others.dedup();
        if !others.is_empty() {
            was.extend(others.iter().map(|path| format!("{name}:{path}")));
            is.push(format!("{name}:{}", ByteString::from(ours)));
        }
    }
    if !was.is_empty() {
        ctx.note(format!(
            "tasks were in cgroups {} and stay in icecore's own, {}, as --manage-cgroups was not \
             given",
            was.join(", "),
            is.join(", ")
        ));
    }
    if !state.namespaces.is_empty() {
        ctx.note(
            "tasks were in cgroup namespaces of their own and are in icecore's now".to_owned(),
        );
    }
}
