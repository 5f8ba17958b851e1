//! Cgroups as a tree: what they are set to, and who is in them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use icecore_images::cgroup::{
    Cgroup, CgroupHierarchy, CgroupKind, CgroupRecords, CgroupVersion, below,
};
use icecore_images::{ByteString, Checkpoint};

use super::words;

/// Shows the cgroups that are recorded. Writing to a string cannot fail.
pub(super) fn show(out: &mut String, image: &Checkpoint) {
    let state = &image.cgroups;
    if state.records == CgroupRecords::Nothing {
        return;
    }
    let _ = writeln!(out, "\nCGROUPS, recorded {}", how(image));
    for (at, hierarchy) in state.hierarchies.iter().enumerate() {
        let name = match hierarchy.version {
            CgroupVersion::V2 => format!("cgroup2 ({})", hierarchy.controllers.join(" ")),
            CgroupVersion::V1 => hierarchy.controllers.join(","),
        };
        let _ = writeln!(out, "  {name}");
        tree(out, hierarchy, &members(image, at));
    }
    for namespace in &state.namespaces {
        let mut roots: Vec<String> = namespace.roots.iter().map(ToString::to_string).collect();
        roots.dedup();
        let _ = writeln!(out, "  a namespace with its root at {}", roots.join(", "));
    }
}

fn how(image: &Checkpoint) -> String {
    let what = match image.cgroups.records {
        CgroupRecords::Nothing => "not at all",
        CgroupRecords::Membership => "without properties",
        CgroupRecords::Properties => "with properties",
        CgroupRecords::All => "with properties and all below",
    };
    match image.cgroups.mode.name() {
        Some(mode) => format!("{what} (--manage-cgroups={mode})"),
        None => format!("{what} (--manage-cgroups not given)"),
    }
}

/// Threads by cgroup; where all of a task are together, the task.
fn members(image: &Checkpoint, at: usize) -> BTreeMap<Vec<u8>, Vec<String>> {
    let mut members: BTreeMap<Vec<u8>, Vec<String>> = BTreeMap::new();
    let path = |thread: &icecore_images::thread::ThreadState| {
        let set = image.cgroups.sets.get(thread.cgroups?.0 as usize)?;
        Some(set.paths.get(at)?.0.clone())
    };
    for task in &image.tasks {
        let all: Vec<_> = task.threads.iter().map(|t| (t.tid, path(t))).collect();
        let together = all.windows(2).all(|pair| pair[0].1 == pair[1].1);
        for (tid, path) in all.into_iter().take(if together { 1 } else { usize::MAX }) {
            let who = match together {
                true => format!("pid {}", task.pid),
                false => format!("thread {tid} of pid {}", task.pid),
            };
            members
                .entry(path.unwrap_or_default())
                .or_default()
                .push(who);
        }
    }
    members
}

fn tree(out: &mut String, hierarchy: &CgroupHierarchy, members: &BTreeMap<Vec<u8>, Vec<String>>) {
    let mut all: BTreeMap<&[u8], Option<&Cgroup>> = BTreeMap::new();
    all.extend(members.keys().map(|path| (path.as_slice(), None)));
    let recorded = hierarchy.cgroups.iter();
    all.extend(recorded.map(|cgroup| (cgroup.path.0.as_slice(), Some(cgroup))));
    let paths: Vec<&[u8]> = all.keys().copied().collect();
    for (path, cgroup) in all {
        let above = paths.iter().filter(|other| **other != path);
        let mut above: Vec<&&[u8]> = above.filter(|o| below(path, o).is_some()).collect();
        above.sort_by_key(|other| other.len());
        let indent = "  ".repeat(above.len() + 2);
        let shown = match above.last() {
            Some(parent) => below(path, parent).unwrap_or(path),
            None => path,
        };
        let shown = ByteString::from(shown);
        let here = members.get(path).map(|who| who.join(", "));
        let here = here.map_or_else(String::new, |who| format!(": {who}"));
        let _ = writeln!(
            out,
            "{indent}{shown}{}{here}",
            cgroup.map_or_else(String::new, notes)
        );
        for property in cgroup.iter().flat_map(|cgroup| &cgroup.properties) {
            let value = property.value.to_string().replace("\\n", "; ");
            let _ = writeln!(out, "{indent}  {} = {value}", property.name);
        }
    }
}

/// What is unusual about a cgroup.
fn notes(cgroup: &Cgroup) -> String {
    let kind = match cgroup.kind {
        Some(CgroupKind::Threaded) => Some("threaded".to_owned()),
        Some(CgroupKind::DomainThreaded) => Some("domain threaded".to_owned()),
        Some(CgroupKind::DomainInvalid) => Some("domain invalid".to_owned()),
        Some(CgroupKind::Domain) | None => None,
    };
    let owner = &cgroup.attributes;
    let owned = ((owner.uid, owner.gid) != (0, 0))
        .then(|| format!("of uid {}, gid {}", owner.uid, owner.gid));
    let frozen = cgroup.frozen.then(|| "frozen".to_owned());
    let all: Vec<String> = kind.into_iter().chain(frozen).chain(owned).collect();
    words::in_brackets(&all)
}
