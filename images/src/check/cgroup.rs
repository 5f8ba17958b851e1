//! Cgroups: paths lead nowhere but to cgroups, properties are files of their
//! controllers, and everyone is somewhere below the root.

use super::numbers::{bits, count, owners, refers, text};
use super::problem::{At, CheckError, Found, Object, Problem};
use crate::bytes::ByteString;
use crate::cgroup::{
    Cgroup, CgroupAttributes, CgroupHierarchy, CgroupRecords, CgroupSet, CgroupVersion,
    CgroupsState, MEMBER_FILES, below, is_cgroup_path, is_property,
};
use crate::checkpoint::Checkpoint;

const MAX_HIERARCHIES: usize = 64;
const MAX_CGROUPS: usize = 1 << 16;
const MAX_PROPERTIES: usize = 1024;
const MAX_VALUE: usize = 1 << 16;

pub(super) fn check(image: &Checkpoint) -> Result<(), CheckError> {
    let state = &image.cgroups;
    let hierarchies = match state.records {
        CgroupRecords::Nothing => 0,
        _ => MAX_HIERARCHIES,
    };
    count(
        "cgroup hierarchies",
        state.hierarchies.len(),
        0..=hierarchies,
    )
    .at(Object::Image)?;
    for (place, one) in state.hierarchies.iter().enumerate() {
        hierarchy(one).at(Object::CgroupHierarchy(place))?;
    }
    one_of_version_2(state).at(Object::Image)?;
    for namespace in &state.namespaces {
        paths(state, &namespace.roots).at(Object::Image)?;
    }
    for (place, one) in state.sets.iter().enumerate() {
        set(state, one).at(Object::CgroupSet(place))?;
    }
    Ok(())
}

fn one_of_version_2(state: &CgroupsState) -> Found {
    let all = state.hierarchies.iter();
    let unified = all.filter(|h| h.version == CgroupVersion::V2).count();
    count("unified hierarchies", unified, 0..=1)
}

fn hierarchy(hierarchy: &CgroupHierarchy) -> Found {
    count("controllers", hierarchy.controllers.len(), 0..=64)?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.=-".contains(&b);
    for name in &hierarchy.controllers {
        if name.is_empty() || name.len() > 70 || !name.bytes().all(plain) {
            return Err(Problem::Contradiction(
                "a controller has no controller's name",
            ));
        }
    }
    cgroup_path(&hierarchy.root)?;
    count("cgroups", hierarchy.cgroups.len(), 0..=MAX_CGROUPS)?;
    let mut before: &[u8] = b"/";
    for (place, cgroup) in hierarchy.cgroups.iter().enumerate() {
        one(hierarchy, cgroup)?;
        if cgroup.path.0.as_slice() <= before {
            let (what, value) = ("cgroup", place as u64);
            return Err(Problem::Order { what, value });
        }
        before = &cgroup.path.0;
    }
    Ok(())
}

fn one(hierarchy: &CgroupHierarchy, cgroup: &Cgroup) -> Found {
    within(&cgroup.path, &hierarchy.root)?;
    attributes(&cgroup.attributes)?;
    count("properties", cgroup.properties.len(), 0..=MAX_PROPERTIES)?;
    for property in &cgroup.properties {
        if !is_property(&property.name, &hierarchy.controllers) {
            return Err(Problem::Contradiction(
                "a property is none of its hierarchy's controllers",
            ));
        }
        text("value of a property", &property.value, MAX_VALUE)?;
        attributes(&property.attributes)?;
    }
    count("files", cgroup.files.len(), 0..=MEMBER_FILES.len())?;
    for file in &cgroup.files {
        if !MEMBER_FILES.contains(&file.name.as_str()) {
            return Err(Problem::Contradiction("a file of members has another name"));
        }
        attributes(&file.attributes)?;
    }
    Ok(())
}

fn attributes(attributes: &CgroupAttributes) -> Found {
    owners(&[attributes.uid, attributes.gid])?;
    bits("mode", u64::from(attributes.mode), 0o7777)
}

fn set(state: &CgroupsState, set: &CgroupSet) -> Found {
    paths(state, &set.paths)?;
    let Some(namespace) = set.namespace else {
        return Ok(());
    };
    refers("cgroup namespace", namespace, state.namespaces.len())?;
    let roots = &state.namespaces[namespace as usize].roots;
    let mut all = set.paths.iter().zip(roots);
    all.try_for_each(|(path, root)| within(path, root))
}

fn paths(state: &CgroupsState, paths: &[ByteString]) -> Found {
    let hierarchies = &state.hierarchies;
    let all = hierarchies.len();
    count("cgroups of a thread", paths.len(), all..=all)?;
    let mut each = paths.iter().zip(hierarchies);
    each.try_for_each(|(path, hierarchy)| within(path, &hierarchy.root))
}

fn within(path: &ByteString, root: &ByteString) -> Found {
    cgroup_path(path)?;
    match below(&path.0, &root.0) {
        Some(_) => Ok(()),
        None => Err(Problem::Contradiction("a cgroup is not below its root")),
    }
}

fn cgroup_path(path: &ByteString) -> Found {
    match is_cgroup_path(&path.0) {
        true => Ok(()),
        false => Err(Problem::Path { what: "a cgroup" }),
    }
}
