//! Locks on files: fcntl(2) and flock(2).
//!
//! The kernel shows a lock in the fdinfo of the very description it was taken
//! through, POSIX locks too, and those only where the process itself owns
//! them. A thread that waits for a lock asks for it again when it wakes up.

use icecore_images::lock::FileLock;

use super::DumpContext;
use super::descriptor::Descriptor;
use super::descriptors::named;
use crate::kernel::locks;

/// The locks held through a descriptor; `None` for leases and what is not
/// known, which have then been noted as blockers. Such a file must not be
/// opened: that would break the lease, and wait for a task that stands still.
pub(super) fn describe(ctx: &mut DumpContext<'_>, d: &Descriptor) -> Option<Vec<FileLock>> {
    let mut held = Vec::new();
    for line in &d.info.locks {
        match locks::parse(line) {
            Some(found) => held.push(found.lock),
            None => refuse(ctx, d, line),
        }
    }
    (held.len() == d.info.locks.len()).then_some(held)
}

fn refuse(ctx: &mut DumpContext<'_>, d: &Descriptor, line: &str) {
    let kind = line.split_whitespace().nth(1).unwrap_or_default();
    let (problem, help) = match kind {
        "LEASE" | "DELEG" => (
            format!("{} has a lease: {line}", named(d)),
            "let the program give it up (F_SETLEASE, F_UNLCK)",
        ),
        _ => (
            format!("{} has a lock of an unknown kind: {line}", named(d)),
            "let the program give it up",
        ),
    };
    d.refuse(ctx, problem, Some(help));
}
