//! `--live`: the target goes on as soon as its tasks have made copies of
//! themselves, and pages are read from those.
//!
//! Ordering requirements:
//! - whether there is memory enough is looked at before anything forks, as it is
//!   the target that would be ended for it;
//! - what a copy does not have or may lose is copied while the target stands
//!   still: shared memory, areas that are not inherited, private huge pages;
//! - the copies end as soon as their pages have been read: while they live,
//!   every page that the target writes to is copied for it.

use icecore_images::mm::{Backing, Vma};

use super::DumpContext;
use crate::error::DumpError;
use crate::kernel::{memcg, proc_text};
use crate::options::{After, DumpOptions};
use crate::tracer::snapshot::{self, Remains, Snapshot};
use crate::tracer::{Frozen, FrozenTask};

/// Copies of the target's tasks, one for each address space, by its id.
#[derive(Debug)]
pub(super) struct Copies(Vec<Snapshot>);

impl Copies {
    /// Process ids of the copies, by address space.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.0.iter().map(|copy| copy.pid).collect()
    }

    /// Ends them while the target still stands.
    pub(super) fn take_back(self, frozen: &mut Frozen) {
        take_back(self.0, frozen);
    }

    /// Ends them.
    pub(super) fn end(self) -> Vec<Remains> {
        self.0.into_iter().map(Snapshot::end).collect()
    }
}

/// Whether a copy has the area's private pages, and keeps them. (The kernel may
/// take huge pages away from a copy where it has no others for the target.)
pub(super) fn is_in_copy(vma: &Vma) -> bool {
    let huge = matches!(vma.backing, Backing::AnonymousHuge { .. });
    !(vma.flags.dont_fork || vma.flags.wipe_on_fork || huge)
}

/// Has every address space copied; `None`, with a note, where that cannot be.
pub(super) fn copy_all(ctx: &mut DumpContext<'_>, frozen: &mut Frozen) -> Option<Copies> {
    let copied = match thawed(ctx).or_else(|| too_little_memory(ctx, frozen)) {
        Some(why) => Err(why),
        None => fork_all(ctx, frozen),
    };
    match copied {
        Ok(copies) => Some(copies),
        Err(why) => {
            ctx.notes.push(format!(
                "the target stood still while its pages were copied, in spite of --live: {why}"
            ));
            None
        }
    }
}

/// A copy could not be ended in a cgroup that is frozen again.
fn thawed(ctx: &DumpContext<'_>) -> Option<String> {
    let frozen = !ctx.tables.cgroups.thawed.is_empty();
    frozen.then(|| "its cgroup was frozen, and will be again".to_owned())
}

fn fork_all(ctx: &DumpContext<'_>, frozen: &mut Frozen) -> Result<Copies, String> {
    let mut copies = Vec::new();
    for mm in 0..ctx.tables.mms.len() {
        let owns = |task: &FrozenTask| {
            let mut states = ctx.tables.tasks.iter();
            states.any(|state| state.pid == task.pid && state.mm.0 as usize == mm)
        };
        let forked = match frozen.tasks.iter_mut().find(|task| owns(task)) {
            Some(task) => task.fork().map_err(|e| reason(&e)),
            None => Err("an address space has no task that runs".to_owned()),
        };
        match forked {
            Ok(copy) => copies.push(copy),
            Err(why) => {
                take_back(copies, frozen);
                return Err(why);
            }
        }
    }
    Ok(Copies(copies))
}

/// Ends copies while the target still stands.
fn take_back(copies: Vec<Snapshot>, frozen: &mut Frozen) {
    for copy in copies {
        let (of, remains) = (copy.of, copy.end());
        if let Some(task) = frozen.tasks.iter_mut().find(|task| task.pid == of) {
            // What stays otherwise is an entry in the process table.
            let _ = task.wait_for(remains);
        }
    }
}

/// An error with its causes in one line.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Of the memory that a copy shares with its task, the part that the task is
/// expected to write to meanwhile at most: one in so many.
const WRITTEN_MEANWHILE: u64 = 4;
/// Page tables: one entry of 8 bytes a page of 4096.
const BYTES_PER_TABLE_BYTE: u64 = 512;
/// What forking takes besides, a task.
const BESIDE: u64 = 4 << 20;

/// Why there is not memory enough for copies, if there is not.
fn too_little_memory(ctx: &DumpContext<'_>, frozen: &Frozen) -> Option<String> {
    let mut needed = 0;
    for &tid in &ctx.tables.mm_tids {
        let private = private_memory(tid)?;
        needed += private / WRITTEN_MEANWHILE + private / BYTES_PER_TABLE_BYTE + BESIDE;
    }
    for task in &frozen.tasks {
        let tid = task.a_tid();
        if memcg::ends_all_at_once(tid) {
            return Some(
                "its memory cgroup has memory.oom.group set: were memory to run short, the \
                 kernel would end all of it"
                    .to_owned(),
            );
        }
        let left = memcg::headroom_of(tid).into_iter();
        if let Some(left) = left.chain(memcg::machine_available()).min()
            && left < needed
        {
            return Some(format!(
                "there are {left} bytes of memory left where up to {needed} may be needed"
            ));
        }
    }
    None
}

/// Bytes of memory of its own that a process has, swapped out or not.
fn private_memory(tid: u32) -> Option<u64> {
    let status = proc_text::read(tid, "status").ok()?;
    let kilobytes = |key: &str| {
        let words = proc_text::words(proc_text::field(&status, key)?).next()?;
        std::str::from_utf8(words).ok()?.parse::<u64>().ok()
    };
    Some((kilobytes("RssAnon")? + kilobytes("VmSwap").unwrap_or(0)) << 10)
}

/// Has the target wait for its copies, which have ended. It stands still once
/// more for that moment.
pub(super) fn leave_no_trace(ctx: &mut DumpContext<'_>, remains: &[Remains]) {
    match snapshot::reap(ctx.options.pid, remains, ctx.options.timeout) {
        Ok(frozen) => ctx.stats.frozen_us += super::micros(frozen),
        Err(e) => ctx.notes.push(format!(
            "what its copies have left in the process table stays until pid {} ends: {}",
            ctx.options.pid,
            reason(&e)
        )),
    }
}

/// An error where `--live` was asked for something it is not for.
pub(super) fn check_options(options: &DumpOptions) -> Result<(), DumpError> {
    match options.live && options.after != After::Run {
        true => Err(DumpError::LiveEnds { pid: options.pid }),
        false => Ok(()),
    }
}
