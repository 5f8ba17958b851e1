//! Control groups: in which ones every thread is, as icecore's own cgroup
//! namespace names them, and in which namespace.
//!
//! Where the mode was not given, nothing here stands in the way of a dump: what
//! cannot be read is said aloud and the image holds less.

use std::io;
use std::path::PathBuf;

use icecore_images::ByteString;
use icecore_images::cgroup::{
    CgroupHierarchy, CgroupMode, CgroupNamespace, CgroupRecords, CgroupSet, CgroupVersion,
    CgroupsState, below, is_cgroup_path,
};
use icecore_images::ids::CgroupSetId;
use icecore_images::task::TaskState;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{DumpContext, cgroup_tree};
use crate::blocker::Place;
use crate::error::DumpError;
use crate::kernel::cgroupfs::{self, Hierarchy, Membership};
use crate::options::{CgroupRoot, is_called};

/// Cgroups as they are being found.
#[derive(Debug, Default)]
pub(crate) struct Cgroups {
    /// What the image holds of them.
    pub(crate) state: CgroupsState,
    /// The same hierarchies as in `state`, on this machine.
    here: Vec<Hierarchy>,
    /// What the namespaces in `state` are called.
    namespaces: Vec<PathBuf>,
    /// Directories that were frozen before they were thawed for the dump.
    pub(super) thawed: Vec<PathBuf>,
    /// Why an image that was not asked for cgroups holds none.
    unreadable: Option<String>,
}

impl Cgroups {
    /// The directory of a cgroup.
    pub(super) fn dir(&self, hierarchy: usize, path: &[u8]) -> Option<PathBuf> {
        self.here.get(hierarchy)?.dir(path)
    }
}

/// Notes where a thread is.
pub(crate) fn member(
    ctx: &mut DumpContext<'_>,
    place: &Place,
    tid: u32,
) -> io::Result<Option<CgroupSetId>> {
    let options = &ctx.options.cgroups;
    if options.mode.records() == CgroupRecords::Nothing {
        return Ok(None);
    }
    if ctx.tables.cgroups.here.is_empty() {
        find_hierarchies(ctx)?;
    }
    let all = cgroupfs::memberships(tid)?;
    let Some(paths) = paths(&ctx.tables.cgroups.here, &all) else {
        let outside = all.iter().find(|member| !is_cgroup_path(&member.path));
        cannot(ctx, place, outside_of_ours(outside));
        return Ok(None);
    };
    let Ok(namespace) = namespace(ctx, tid, &paths)? else {
        let what = "its cgroup namespace does not hold its own cgroups".to_owned();
        cannot(ctx, place, what);
        return Ok(None);
    };
    let set = CgroupSet { paths, namespace };
    let sets = &mut ctx.tables.cgroups.state.sets;
    let at = sets.iter().position(|known| *known == set);
    let at = at.unwrap_or_else(|| {
        sets.push(set);
        sets.len() - 1
    });
    Ok(Some(CgroupSetId(at as u32)))
}

fn find_hierarchies(ctx: &mut DumpContext<'_>) -> io::Result<()> {
    let (options, wanted) = (&ctx.options.cgroups, &ctx.options.cgroup_selection);
    let mut here = cgroupfs::hierarchies(options.yard.as_deref())?;
    here.retain(|h| {
        let named = |name: &String| is_called(name, h.unified, &h.controllers);
        wanted.controllers.is_empty() || wanted.controllers.iter().any(named)
    });
    let state = &mut ctx.tables.cgroups.state;
    state.hierarchies = here
        .iter()
        .map(|h| CgroupHierarchy {
            version: match h.unified {
                true => CgroupVersion::V2,
                false => CgroupVersion::V1,
            },
            controllers: h.controllers.clone(),
            root: ByteString::default(),
            cgroups: Vec::new(),
        })
        .collect();
    ctx.tables.cgroups.here = here;
    Ok(())
}

/// A path for each hierarchy; `None` where one lies outside of our namespace.
fn paths(here: &[Hierarchy], all: &[Membership]) -> Option<Vec<ByteString>> {
    let of = |h: &Hierarchy| {
        let same = |m: &&Membership| {
            m.unified == h.unified && (m.unified || m.controllers == h.controllers)
        };
        let path = &all.iter().find(same)?.path;
        is_cgroup_path(path).then(|| path.clone().into())
    };
    here.iter().map(of).collect()
}

fn outside_of_ours(member: Option<&Membership>) -> String {
    let (name, path) = member.map_or_else(Default::default, |member| {
        let name = cgroupfs::name(member.unified, &member.controllers);
        (name, ByteString::from(member.path.clone()).to_string())
    });
    format!("it is in cgroup {name}:{path}, outside of icecore's cgroup namespace")
}

/// Notes what cannot be recorded: a blocker where it was asked for.
fn cannot(ctx: &mut DumpContext<'_>, place: &Place, problem: String) {
    if ctx.options.cgroups.mode == CgroupMode::NotGiven {
        ctx.tables.cgroups.unreadable.get_or_insert(problem);
        return;
    }
    let help = "run icecore in the task's cgroup namespace (nsenter --cgroup), or dump with \
        --manage-cgroups=ignore";
    ctx.block(place.clone(), problem, Some(help));
}

/// The namespace of a thread, where it is not ours; an inner error where its
/// root cannot be told.
fn namespace(
    ctx: &mut DumpContext<'_>,
    tid: u32,
    paths: &[ByteString],
) -> io::Result<Result<Option<u32>, ()>> {
    let link = |id: String| std::fs::read_link(format!("/proc/{id}/ns/cgroup"));
    let theirs = link(tid.to_string())?;
    if theirs == link("self".to_owned())? {
        return Ok(Ok(None));
    }
    let cgroups = &mut ctx.tables.cgroups;
    if let Some(known) = cgroups.namespaces.iter().position(|ns| *ns == theirs) {
        return Ok(Ok(Some(known as u32)));
    }
    let inside = self::paths(&cgroups.here, &seen_from_inside(tid)?);
    let roots = inside.and_then(|inside| {
        let both = paths.iter().zip(&inside);
        both.map(|(ours, theirs)| root(&ours.0, &theirs.0))
            .collect()
    });
    let Some(roots) = roots else {
        return Ok(Err(()));
    };
    cgroups.namespaces.push(theirs);
    cgroups.state.namespaces.push(CgroupNamespace { roots });
    Ok(Ok(Some(cgroups.namespaces.len() as u32 - 1)))
}

/// The cgroups of a thread as it sees them itself: read by a thread of ours
/// that has joined its namespace for that.
fn seen_from_inside(tid: u32) -> io::Result<Vec<Membership>> {
    let namespace = std::fs::File::open(format!("/proc/{tid}/ns/cgroup"))?;
    let read = || {
        use std::os::fd::AsFd;
        let kind = Some(LinkNameSpaceType::ControlGroup);
        move_into_link_name_space(namespace.as_fd(), kind)?;
        cgroupfs::memberships(tid)
    };
    std::thread::scope(|scope| match scope.spawn(read).join() {
        Ok(read) => read,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// What is `/` to someone who sees `ours` as `theirs`.
fn root(ours: &[u8], theirs: &[u8]) -> Option<ByteString> {
    let rest = if theirs == b"/" { b"" } else { theirs };
    let root = ours.strip_suffix(rest)?;
    Some(match root.is_empty() {
        true => b"/"[..].into(),
        false => root.into(),
    })
}

/// Describes the cgroups that tasks are in, and those below, once all members
/// are known.
pub(super) fn collect(ctx: &mut DumpContext<'_>) -> Result<(), DumpError> {
    let mode = ctx.options.cgroups.mode;
    ctx.tables.cgroups.state.mode = mode;
    one_namespace_each(ctx);
    if let Some(problem) = ctx.tables.cgroups.unreadable.take() {
        forget(ctx);
        ctx.notes
            .push(format!("cgroups are not recorded: {problem}"));
    }
    let wanted = match ctx.tables.cgroups.state.sets.is_empty() {
        true => CgroupRecords::Nothing,
        false => mode.records(),
    };
    if wanted == CgroupRecords::Nothing {
        forget(ctx);
        return Ok(());
    }
    for hierarchy in 0..ctx.tables.cgroups.here.len() {
        find_root(ctx, hierarchy);
    }
    ctx.tables.cgroups.state.records = match all_mounted(ctx) {
        true => wanted,
        false => wanted.min(CgroupRecords::Membership),
    };
    cgroup_tree::collect(ctx)
}

/// A restored process joins one namespace, with all its threads.
fn one_namespace_each(ctx: &mut DumpContext<'_>) {
    let sets = &ctx.tables.cgroups.state.sets;
    let namespace = |id: CgroupSetId| sets.get(id.0 as usize).and_then(|set| set.namespace);
    let apart = |task: &&TaskState| {
        let all = task.threads.iter();
        let mut all = all.map(|thread| thread.cgroups.and_then(namespace));
        let first = all.next();
        all.any(|other| Some(other) != first)
    };
    let tasks = ctx.tables.tasks.iter().filter(apart);
    let pids: Vec<u32> = tasks.map(|task| task.pid).collect();
    for pid in pids {
        let problem = "its threads are in several cgroup namespaces".to_owned();
        cannot(ctx, &Place::Task { pid }, problem);
    }
}

fn forget(ctx: &mut DumpContext<'_>) {
    let mode = ctx.options.cgroups.mode;
    ctx.tables.cgroups.state = CgroupsState {
        mode,
        ..CgroupsState::default()
    };
    ctx.tables.cgroups.here.clear();
    let threads = ctx
        .tables
        .tasks
        .iter_mut()
        .flat_map(|task| &mut task.threads);
    threads.for_each(|thread| thread.cgroups = None);
}

/// The cgroup that everyone is in or below, unless one above it was named.
fn find_root(ctx: &mut DumpContext<'_>, hierarchy: usize) {
    let state = &mut ctx.tables.cgroups.state;
    let occupied = occupied(state, hierarchy);
    let mut common = occupied
        .first()
        .map_or(b"/".to_vec(), |path| path.0.clone());
    for path in &occupied {
        while below(&path.0, &common).is_none() {
            let end = common.iter().rposition(|&b| b == b'/').unwrap_or(0);
            common.truncate(end.max(1));
        }
    }
    let one = &mut state.hierarchies[hierarchy];
    let unified = one.version == CgroupVersion::V2;
    let asked = CgroupRoot::of(&ctx.options.cgroups.roots, unified, &one.controllers);
    match asked {
        Some(asked) if below(&common, asked).is_none() => {
            one.root = common.clone().into();
            let name = cgroupfs::name(unified, &one.controllers);
            let place = Place::Path {
                path: format!("{name}:{}", ByteString::from(asked)),
            };
            let problem = format!(
                "tasks are in {}, which is not below",
                ByteString::from(common)
            );
            ctx.block(place, problem, Some("give a --cgroup-root above all tasks"));
        }
        Some(asked) => one.root = asked.into(),
        None => one.root = common.into(),
    }
}

/// Cgroups with tasks in them, and roots of namespaces.
pub(super) fn occupied(state: &CgroupsState, hierarchy: usize) -> Vec<ByteString> {
    let members = state.sets.iter().map(|set| &set.paths);
    let roots = state.namespaces.iter().map(|ns| &ns.roots);
    let all = members
        .chain(roots)
        .filter_map(|paths| paths.get(hierarchy));
    all.cloned().collect()
}

/// Whether properties can be read wherever there are any.
fn all_mounted(ctx: &mut DumpContext<'_>) -> bool {
    if ctx.options.cgroups.mode.records() < CgroupRecords::Properties {
        return true;
    }
    let cgroups = &ctx.tables.cgroups;
    let hidden = cgroups.here.iter().enumerate().find(|(at, h)| {
        let mut occupied = occupied(&cgroups.state, *at).into_iter();
        occupied.any(|path| path.0 != b"/" && h.dir(&path.0).is_none())
    });
    let Some((_, hierarchy)) = hidden else {
        return true;
    };
    let name = hierarchy.name();
    if ctx.options.cgroups.mode == CgroupMode::NotGiven {
        ctx.notes.push(format!(
            "cgroups are recorded without their properties: hierarchy {name} is not mounted"
        ));
        return false;
    }
    let problem = format!("cgroup hierarchy {name}, which tasks are in, is not mounted");
    let help = "mount it, name where it is with --cgroup-yard, or dump with \
        --manage-cgroups=none, which needs no properties";
    ctx.block(Place::Machine, problem, Some(help));
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_of_namespaces_are_what_is_not_seen_inside() {
        let seen = |ours: &str, theirs: &str| {
            root(ours.as_bytes(), theirs.as_bytes()).map(|root| root.to_string())
        };
        assert_eq!(seen("/a/b/c", "/c"), Some("/a/b".to_owned()));
        assert_eq!(seen("/a/b", "/"), Some("/a/b".to_owned()));
        assert_eq!(seen("/", "/"), Some("/".to_owned()));
        assert_eq!(seen("/a", "/a"), Some("/".to_owned()));
        assert_eq!(seen("/a", "/b"), None);
    }
}
