//! Locks on files: fcntl(2) and flock(2).
//!
//! The kernel shows a lock in the fdinfo of the very description it was taken
//! through, POSIX locks too, and those only in the table that owns them. A thread that waits for a lock asks for it again when it wakes up.

use std::os::unix::fs::MetadataExt;

use icecore_images::lock::{FileLock, LockKind};

use super::DumpContext;
use super::descriptor::Descriptor;
use super::descriptors::{Collection, named};
use crate::kernel::locks;

/// The locks and leases held through description number `id`; `None` for those
/// that cannot be carried, which have then been noted as blockers.
///
/// A file with a lease must not be opened: that would break the lease, and wait
/// for a task that stands still.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    all: &Collection,
    id: usize,
) -> Option<Vec<FileLock>> {
    let (mut held, mut complete) = (Vec::new(), true);
    let mut seen = Vec::new();
    for (n, &at) in all.holders[id].iter().enumerate() {
        let d = &all.descriptors[at];
        // All descriptors of a table show the same.
        if d.info.locks.is_empty() || seen.contains(&d.table.id) {
            continue;
        }
        seen.push(d.table.id);
        for line in &d.info.locks {
            match locks::parse(line) {
                Some(found) if found.lock.kind == LockKind::Posix => held.push(FileLock {
                    table: Some(d.table.id),
                    ..found.lock
                }),
                Some(found) if found.lock.kind == LockKind::Lease && would_be_opened(d) => {
                    complete = false;
                    refuse(ctx, d, line);
                }
                // The description's own show in every table.
                Some(found) if n == 0 => held.push(found.lock),
                Some(_) => {}
                None => {
                    complete = false;
                    refuse(ctx, d, line);
                }
            }
        }
    }
    complete.then_some(held)
}

/// Whether describing the file means to read it: one without a name, or one
/// that looks like a program or library.
fn would_be_opened(d: &Descriptor) -> bool {
    let shown = d.shown_bytes();
    d.meta.nlink() == 0 || d.meta.mode() & 0o111 != 0 || shown.windows(3).any(|part| part == b".so")
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
