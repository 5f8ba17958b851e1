//! An address space: areas, fields, pages.
//!
//! Ordering requirements:
//! - areas are read before anything is injected, or the parasite's own would be
//!   among them;
//! - pages are looked for after the inspection, when nothing of the task's
//!   memory changes any more.

use icecore_images::ids::MmId;
use icecore_images::mm::{Backing, MmState, VdsoState, Vma};
use icecore_images::regular::FileRef;

use super::DumpContext;
use super::{mm, numa, vma};
use crate::blocker::Place;
use crate::error::DumpError;
use crate::kernel::maps::{self, Area};
use crate::kernel::process_memory::ProcessMemory;
use crate::kernel::vdso::Vdso;
use crate::tracer::{FrozenTask, Script};

/// Describes the address space and notes every area that cannot be carried.
/// Copies nothing and runs nothing inside the task.
pub(crate) fn collect(ctx: &mut DumpContext<'_>, task: &FrozenTask) -> Result<MmId, DumpError> {
    let pid = task.pid;
    let tid = live_thread(task);
    let areas = maps::read_smaps(tid).map_err(|source| DumpError::Read {
        pid,
        what: format!("/proc/{tid}/smaps"),
        source,
    })?;
    let mut vmas = Vec::with_capacity(areas.len());
    for area in &areas {
        vmas.extend(vma::describe(ctx, pid, tid, area)?);
    }
    refuse_protection_keys(ctx, pid, &vmas);
    let exe = mm::exe(ctx, pid, tid)?;
    let state = MmState {
        id: MmId(ctx.tables.mms.len() as u32),
        fields: mm::fields(pid, tid)?,
        // Without its program the dump is refused already.
        exe: exe.unwrap_or_else(unknown_file),
        controls: mm::controls(pid, tid)?,
        vmas,
        vdso: vdso(pid, tid, &areas)?,
        pages: Vec::new(),
    };
    let id = state.id;
    ctx.tables.mms.push(state);
    ctx.tables.mm_tids.push(tid);
    Ok(id)
}

/// A thread through which `/proc` shows the address space: a leader that has
/// exited shows none.
fn live_thread(task: &FrozenTask) -> u32 {
    task.threads.first().map_or(task.pid, |thread| thread.tid)
}

fn unknown_file() -> FileRef {
    FileRef {
        path: Vec::new().into(),
        mode: 0,
        size: 0,
        mtime_ns: 0,
        device: 0,
        inode: 0,
        build_id: None,
        ghost: None,
    }
}

fn refuse_protection_keys(ctx: &mut DumpContext<'_>, pid: u32, vmas: &[Vma]) {
    for vma in vmas.iter().filter(|vma| vma.pkey != 0) {
        let place = Place::Area {
            pid,
            start: vma.start,
            end: vma.end,
        };
        let problem = format!("area has protection key {}, not supported yet", vma.pkey);
        ctx.block(place, problem, None);
    }
}

/// The vDSO's contents, so that another kernel's can stand in for it.
fn vdso(pid: u32, tid: u32, areas: &[Area]) -> Result<Option<VdsoState>, DumpError> {
    let Some(area) = areas.iter().find(|a| a.name == b"[vdso]") else {
        return Ok(None);
    };
    let read = |source| DumpError::Read {
        pid,
        what: "its vDSO".to_owned(),
        source,
    };
    let mut image = vec![0; area.len() as usize];
    ProcessMemory::open(tid)
        .and_then(|memory| memory.force_read(area.start, &mut image))
        .map_err(read)?;
    let parsed = Vdso::parse(&image).map_err(|e| read(std::io::Error::other(e)))?;
    image.truncate(parsed.elf_len);
    let symbols = parsed.symbols.into_iter();
    Ok(Some(VdsoState {
        checksum: parsed.checksum,
        image: image.into(),
        symbols: symbols.map(|(name, at)| (name.into(), at)).collect(),
    }))
}

/// Adds what only the task itself can tell (MDWE, memory policies …).
pub(crate) fn inspect(
    ctx: &mut DumpContext<'_>,
    task: &mut FrozenTask,
    mm: MmId,
) -> Result<(), DumpError> {
    let pid = task.pid;
    let Some(state) = ctx.tables.mms.get_mut(mm.0 as usize) else {
        return Ok(());
    };
    let inject = |source| DumpError::Inject { pid, source };
    let mut script = Script::new();
    let questions = mm::ask(&mut script, free_page(&state.vmas));
    let outcome = task.run(0, &script).map_err(inject)?;
    mm::take_answers(&questions, &outcome, &mut state.fields, &mut state.controls);
    numa::inspect(task, &mut state.vmas).map_err(inject)
}

/// The address of a page that no area covers: below an area, for above may be
/// where the parasite lives.
fn free_page(vmas: &[Vma]) -> u64 {
    const PAGE: u64 = 4096;
    /// Well above mmap_min_addr.
    const LOWEST: u64 = 0x10_0000;
    let mut end_below = LOWEST;
    for vma in vmas {
        if vma.start >= end_below + 2 * PAGE {
            return end_below;
        }
        end_below = end_below.max(vma.end);
    }
    end_below
}

/// Whether the kernel itself fills an area.
pub(super) fn is_kernels_own(backing: &Backing) -> bool {
    matches!(
        backing,
        Backing::Vdso | Backing::Vvar | Backing::VvarVclock | Backing::Vsyscall
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use icecore_images::mm::VmaFlags;

    fn vma(start: u64, end: u64) -> Vma {
        Vma {
            start,
            end,
            prot: 3,
            shared: false,
            backing: Backing::Anonymous,
            flags: VmaFlags::default(),
            pkey: 0,
            numa: None,
            anon_name: None,
            guards: Vec::new(),
        }
    }

    #[test]
    fn a_free_page_is_free_and_touches_nothing() {
        assert_eq!(free_page(&[vma(0x40_0000, 0x50_0000)]), 0x10_0000);
        let tight = [
            vma(0x1_0000, 0x20_0000),
            vma(0x20_1000, 0x30_0000),
            vma(0x50_0000, 0x60_0000),
        ];
        assert_eq!(free_page(&tight), 0x30_0000);
        assert_eq!(free_page(&tight[..2]), 0x30_0000);
    }
}
