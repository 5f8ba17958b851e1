//! Which pages are to be stored, and where they have been put.
//!
//! Stored is what cannot be had from elsewhere: private pages that are present
//! or swapped out, and the data of shared memory objects and ghost files. The
//! zero page, untouched pages, unchanged pages of mapped files and holes are
//! not.

use std::fs::File;
use std::path::Path;

use icecore_images::mm::{MmState, Vma};
use icecore_images::pages::{PAGE_SIZE, PageExtent, PageSource};

use super::DumpContext;
use super::capture::Captured;
use super::copy;
use super::cow::{self, CopyOnWrite, SharedRun};
use super::live;
use super::memory::is_kernels_own;
use crate::error::DumpError;
use crate::kernel::pagemap::{Method, PageMap};
use crate::kernel::process_memory::ProcessMemory;
use crate::kernel::{memcg, shared_memory};

/// What is to be copied.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) sources: Vec<Source>,
    /// In the order of sources and, within one, of addresses.
    pub(super) pieces: Vec<Piece>,
    /// Pages that are stored with another address space.
    shared: Vec<SharedRun>,
    /// Guard areas the page maps show, as source, start and end.
    guards: Vec<(usize, u64, u64)>,
    /// Pages looked at.
    scanned: u64,
    /// The contents of all pieces, where they have been read already.
    pub(super) captured: Option<Captured>,
}

/// Which pages are to be copied.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part<'a> {
    /// All of them, from where they are.
    Everything,
    /// What copies of the tasks do not hold.
    NotInCopies,
    /// What they hold, from the copies with these process ids, by address space.
    InCopies(&'a [u32]),
}

impl Part<'_> {
    fn has(self, vma: &Vma) -> bool {
        match self {
            Part::Everything => true,
            Part::NotInCopies => !live::is_in_copy(vma),
            Part::InCopies(_) => live::is_in_copy(vma),
        }
    }
}

/// Something that has pages.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) owner: Owner,
    pub(super) contents: Contents,
}

/// Whose pages they are; indices into the context's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Mm(usize),
    Shmem(usize),
    Ghost(usize),
}

/// How they are read.
#[derive(Debug)]
pub(super) enum Contents {
    Memory {
        memory: ProcessMemory,
        /// Page maps may show guard pages as swapped ones (6.13, 6.14).
        hidden_guards: bool,
    },
    File(File),
}

/// A run of pages of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) source: usize,
    /// Address or offset.
    pub(super) start: u64,
    pub(super) end: u64,
    /// To be read without pinning: others have the pages too since a fork, and
    /// the kernel would give whoever is read copies of its own, as many bytes
    /// of memory as are read.
    pub(super) unpinned: bool,
}

impl Plan {
    /// A plan to copy these pieces.
    pub(super) fn new(sources: Vec<Source>, pieces: Vec<Piece>) -> Self {
        Self {
            sources,
            pieces,
            shared: Vec::new(),
            guards: Vec::new(),
            scanned: 0,
            captured: None,
        }
    }

    /// Pages of all pieces.
    pub(super) fn pages(&self) -> u64 {
        self.bytes() / PAGE_SIZE
    }

    /// Bytes of all pieces.
    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|p| p.end - p.start).sum()
    }
}

/// What copying found and did.
#[derive(Debug, Default)]
pub(super) struct Copied {
    /// Where the pages of each source are, sorted.
    pub(super) extents: Vec<Vec<PageExtent>>,
    /// Guard pages that only reading found, as source, start and end.
    pub(super) guards: Vec<(usize, u64, u64)>,
    pub(super) page_file: Option<icecore_images::pages::PageFile>,
    pub(super) pages_written: u64,
    pub(super) pages_zero: u64,
}

/// Looks for the pages of everything collected, or a part of it.
pub(super) fn plan(ctx: &mut DumpContext<'_>, part: Part<'_>) -> Result<Plan, DumpError> {
    let mut plan = Plan::new(Vec::new(), Vec::new());
    let mut seen = CopyOnWrite::new(ctx.tables.mms.len());
    for i in 0..ctx.tables.mms.len() {
        let tid = match part {
            Part::InCopies(copies) => copies[i],
            Part::Everything | Part::NotInCopies => ctx.tables.mm_tids[i],
        };
        let vmas = ctx.tables.mms[i].vmas.iter().filter(|vma| part.has(vma));
        let of = AddressSpace {
            mm: i,
            tid,
            copied: matches!(part, Part::InCopies(_)),
        };
        plan_memory(&mut plan, &mut seen, of, vmas).map_err(|source| DumpError::Read {
            pid: tid,
            what: format!("/proc/{tid}/pagemap"),
            source,
        })?;
    }
    for (i, source) in ctx.tables.shmem_refs.sources.drain(..).enumerate() {
        plan_file(&mut plan, Owner::Shmem(i), source)?;
    }
    for (i, source) in ctx.tables.file_refs.ghost_sources.drain(..).enumerate() {
        if let Some(source) = source {
            plan_file(&mut plan, Owner::Ghost(i), source)?;
        }
    }
    Ok(plan)
}

/// Where an address space is read.
#[derive(Debug, Clone, Copy)]
struct AddressSpace {
    mm: usize,
    tid: u32,
    /// In a copy, which has all its pages in common with the task.
    copied: bool,
}

fn plan_memory<'a>(
    plan: &mut Plan,
    seen: &mut CopyOnWrite,
    AddressSpace { mm, tid, copied }: AddressSpace,
    vmas: impl Iterator<Item = &'a Vma>,
) -> std::io::Result<()> {
    let source = plan.sources.len();
    let mut map = PageMap::open(tid)?;
    for vma in vmas.filter(|vma| has_private_pages(vma)) {
        plan.scanned += (vma.end - vma.start) / PAGE_SIZE;
        for run in map.private_runs(vma.start, vma.end)? {
            if run.guard {
                plan.guards.push((source, run.start, run.end));
                continue;
            }
            let split = seen.split(mm, &run, &map)?;
            plan.shared.extend(split.shared);
            for (start, end) in split.own {
                let mut push = |start, end, unpinned| {
                    plan.pieces.push(Piece {
                        source,
                        start,
                        end,
                        unpinned,
                    });
                };
                match copied {
                    true => push(start, end, true),
                    false => map.for_each_exclusive_run(start, end, |start, end, exclusive| {
                        push(start, end, !exclusive);
                    })?,
                }
            }
        }
    }
    plan.sources.push(Source {
        owner: Owner::Mm(mm),
        contents: Contents::Memory {
            memory: ProcessMemory::open(tid)?,
            hidden_guards: map.method() == Method::Scan,
        },
    });
    Ok(())
}

/// Droppable memory may vanish at any time and comes back empty: what it held
/// (random state) is not to be repeated.
fn has_private_pages(vma: &Vma) -> bool {
    !vma.shared && !is_kernels_own(&vma.backing) && !vma.flags.droppable
}

fn plan_file(plan: &mut Plan, owner: Owner, file: File) -> Result<(), DumpError> {
    let source = plan.sources.len();
    let read = |error| DumpError::Content {
        what: match owner {
            Owner::Ghost(_) => "a deleted file",
            Owner::Shmem(_) | Owner::Mm(_) => "a shared memory object",
        },
        source: error,
    };
    let size = file.metadata().map_err(read)?.len();
    for (start, end) in shared_memory::data_ranges(&file, size).map_err(read)? {
        let start = start / PAGE_SIZE * PAGE_SIZE;
        let end = end.next_multiple_of(PAGE_SIZE);
        plan.scanned += (end - start) / PAGE_SIZE;
        plan.pieces.push(Piece {
            source,
            start,
            end,
            unpinned: false,
        });
    }
    let contents = Contents::File(file);
    plan.sources.push(Source { owner, contents });
    Ok(())
}

/// Bytes left free: metadata, and room to breathe for everyone else.
const MARGIN: u64 = 16 << 20;

/// Refuses before the first byte where the image would fill the file system,
/// or, on a tmpfs, the memory the target lives in.
pub(super) fn check_space(dir: &Path, plan: &Plan) -> Result<(), DumpError> {
    let needed = plan.bytes() + MARGIN;
    let fs = rustix::fs::statvfs(dir).map_err(|e| DumpError::Write {
        path: dir.to_owned(),
        source: e.into(),
    })?;
    let mut available = fs.f_bavail.saturating_mul(fs.f_frsize);
    if memcg::is_memory_backed(dir) {
        available = memcg::headroom().map_or(available, |headroom| available.min(headroom));
    }
    if needed > available {
        return Err(DumpError::Space {
            dir: dir.to_owned(),
            needed,
            available,
        });
    }
    Ok(())
}

/// Writes down where everything is.
pub(super) fn record(ctx: &mut DumpContext<'_>, plan: Plan, copied: Copied) {
    let tables = &mut ctx.tables;
    for (source, extents) in plan.sources.iter().zip(copied.extents) {
        match source.owner {
            Owner::Mm(i) => add_extents(&mut tables.mms[i].pages, extents),
            Owner::Shmem(i) => tables.shmems[i].pages = without_zeros(extents),
            Owner::Ghost(i) => tables.ghosts[i].pages = without_zeros(extents),
        }
    }
    ctx.stats.pages_shared += share(&mut tables.mms, &plan.shared);
    for (source, start, end) in plan.guards.into_iter().chain(copied.guards) {
        if let Owner::Mm(i) = plan.sources[source].owner {
            add_guard(&mut tables.mms[i].vmas, start, end);
        }
    }
    tables.page_files.extend(copied.page_file);
    ctx.stats.pages_scanned += plan.scanned;
    ctx.stats.pages_written += copied.pages_written;
    ctx.stats.pages_zero += copied.pages_zero;
}

/// Names in each address space the pages that are stored with one before it;
/// gives their number.
fn share(mms: &mut [MmState], shared: &[SharedRun]) -> u64 {
    let mut pages = 0;
    for runs in shared.chunk_by(|a, b| a.mm == b.mm) {
        let mut found = Vec::new();
        for run in runs {
            found.extend(cow::slice(&mms[run.origin].pages, run.start, run.end));
            pages += (run.end - run.start) / PAGE_SIZE;
        }
        let extents = &mut mms[runs[0].mm].pages;
        extents.extend(found);
        copy::join_extents(extents);
    }
    pages
}

/// Adds another part of an address space's pages.
fn add_extents(all: &mut Vec<PageExtent>, part: Vec<PageExtent>) {
    all.extend(part);
    all.sort_unstable_by_key(|extent| extent.start);
}

/// In an object that starts out empty, zero pages are holes.
fn without_zeros(mut extents: Vec<PageExtent>) -> Vec<PageExtent> {
    extents.retain(|extent| extent.source != PageSource::Zero);
    extents
}

fn add_guard(vmas: &mut [Vma], start: u64, end: u64) {
    let at = vmas.partition_point(|vma| vma.end <= start);
    let Some(vma) = vmas.get_mut(at) else { return };
    match vma.guards.last_mut() {
        Some(last) if last.1 == start => last.1 = end,
        _ => vma.guards.push((start, end)),
    }
}
