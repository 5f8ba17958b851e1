//! Cgroup namespaces: their roots are where the process is that makes one, so
//! a process of ours goes there first.

use std::fs::File;

use super::enter::move_to;
use super::made::Made;
use crate::error::RestoreError;
use crate::restore::{RestoreContext, spawn};

/// Makes every namespace of the image; icecore holds them, and tasks inherit
/// the descriptors by which they join.
pub(super) fn make(ctx: &RestoreContext<'_>, made: &mut Made) -> Result<(), RestoreError> {
    for namespace in &ctx.image.cgroups.namespaces {
        let mut helper = spawn::helper(ctx)?;
        let pid = helper.process.pid;
        for spot in &ctx.cgroups {
            if let Some(root) = namespace.roots.get(spot.at) {
                move_to(spot, &root.0, "cgroup.procs", pid)?;
            }
        }
        let flags = [libc::CLONE_NEWCGROUP as u64];
        helper.syscall("make a cgroup namespace", libc::SYS_unshare, &flags)?;
        let opened = File::open(format!("/proc/{pid}/ns/cgroup"));
        let opened = opened.map_err(|source| RestoreError::Namespace {
            what: "open a cgroup namespace".to_owned(),
            source,
        })?;
        made.namespaces.push(opened.into());
    }
    Ok(())
}
