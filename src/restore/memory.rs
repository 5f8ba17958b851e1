//! An address space: areas, pages, fields.
//!
//! Ordering requirements:
//! - shared memory objects are made and filled before anything maps them, and
//!   sealed after: a sealed one takes no contents;
//! - areas are mapped while the task still holds the descriptors inherited from
//!   us, before its own are placed;
//! - huge page advice and memory policies come before pages, which they apply
//!   to; final protections, guard pages and locks after, for they keep pages
//!   out or bring them in;
//! - locks need privileges or limits that the task may lack, so they come before
//!   its credentials;
//! - what forbids further mapping (mseal, MDWE) comes last of all.

use std::fs;
use std::rc::Rc;

use icecore_images::mm::{Backing, MmState, Vma};
use icecore_images::prctl::MlockFuture;

use super::RestoreContext;
use super::cow::Inherited;
use super::ghost::Ghosts;
use super::layout::{Layout, LayoutError};
use super::mapped::MappedFiles;
use super::shmem::{self, Shmems};
use super::{memory_plan, mm, pages, vdso, vma};
use crate::error::RestoreError;
use crate::kernel::process_memory::ProcessMemory;
use crate::options::PidPolicy;
use crate::tracer::Script;

/// Notes every obstacle: mapped files missing or changed (all at once),
/// huge pages, address space limits.
pub(crate) fn plan(ctx: &mut RestoreContext<'_>) {
    memory_plan::plan(ctx);
}

/// Makes all shared memory objects with their contents.
pub(crate) fn create_shared(ctx: &mut RestoreContext<'_>) -> Result<Shmems, RestoreError> {
    shmem::create_all(ctx)
}

/// Puts the seals on memfds, once everything that may write is mapped.
pub(crate) fn seal_shared(ctx: &RestoreContext<'_>, shmems: &Shmems) -> Result<(), RestoreError> {
    shmem::seal(ctx, shmems)
}

/// What rebuilding an address space needs, gathered before its process is
/// created.
#[derive(Debug)]
pub(crate) struct Prepared {
    files: Rc<MappedFiles>,
    /// Of a process that is a copy of this one.
    layout: Layout,
}

/// What is decided about an address space when its process is there.
#[derive(Debug)]
pub(crate) struct Decided {
    /// `None`: as prepared.
    layout: Option<Layout>,
    inherited: Inherited,
}

impl Decided {
    /// For a process with the memory of this one, nothing of which stays.
    pub(super) fn anew(mm: &MmState) -> Self {
        Self {
            layout: None,
            inherited: Inherited::nothing(mm),
        }
    }

    /// For process `pid`, which was forked from one with memory `of`.
    pub(super) fn forked(
        ctx: &RestoreContext<'_>,
        pid: u32,
        of: &MmState,
        mm: &MmState,
    ) -> Result<Self, RestoreError> {
        let layout = Layout::in_process(pid, mm, ctx.options.forward_vdso);
        Ok(Self {
            layout: Some(layout.map_err(no_layout)?),
            inherited: Inherited::between(ctx, of, mm),
        })
    }

    /// What stays mapped of what the process has.
    pub(super) fn kept(&self) -> impl Iterator<Item = std::ops::Range<u64>> {
        self.inherited.ranges()
    }

    /// What throws out of that what is not the task's.
    pub(super) fn forget(&self) -> impl Iterator<Item = Script> {
        self.inherited.forget()
    }

    fn layout<'a>(&'a self, prepared: &'a Prepared) -> &'a Layout {
        self.layout.as_ref().unwrap_or(&prepared.layout)
    }
}

/// Opens what areas and programs need, for all tasks to inherit, and decides
/// where things go; for each address space.
pub(crate) fn prepare(
    ctx: &RestoreContext<'_>,
    shmems: &Shmems,
    ghosts: &Ghosts,
) -> Result<Vec<Prepared>, RestoreError> {
    let mms = &ctx.image.mms;
    let files = Rc::new(MappedFiles::open(mms, shmems, ghosts)?);
    let prepared = mms.iter().map(|mm| {
        let layout = Layout::new(mm, ctx.options.forward_vdso);
        Ok(Prepared {
            files: Rc::clone(&files),
            layout: layout.map_err(no_layout)?,
        })
    });
    prepared.collect()
}

fn no_layout(error: LayoutError) -> RestoreError {
    RestoreError::Rebuild {
        what: "the address space".to_owned(),
        source: std::io::Error::other(error),
    }
}

/// Maps every area at its place and sets the fields of the address space. On
/// entry nothing is mapped but the blob (at an address free in `mm`), the
/// process's own `[vvar]`/`[vdso]` and what it keeps of what it was forked with,
/// and it still has our descriptors; on exit all areas are mapped with what
/// filling them needs, vDSO included.
pub(crate) fn map(
    ctx: &RestoreContext<'_>,
    mm: &MmState,
    (prepared, decided): (&Prepared, &Decided),
    script: &mut Script,
) {
    let layout = decided.layout(prepared);
    let inherited = &decided.inherited;
    vdso::map(layout, script);
    let missing = |vma: &Vma| !inherited.has(vma);
    vma::map_all(
        ctx.image,
        mm,
        (&prepared.files, &missing),
        layout.scratch,
        script,
    );
    mm::set_fields(mm, &prepared.files, inherited.same_program, script);
}

/// Fills the mapped areas of process `pid` from outside, verifying what it
/// reads.
pub(crate) fn fill(
    ctx: &mut RestoreContext<'_>,
    mm: &MmState,
    (prepared, decided): (&Prepared, &Decided),
    pid: u32,
) -> Result<(), RestoreError> {
    let failed = |source| RestoreError::Rebuild {
        what: format!("the memory of pid {pid}"),
        source,
    };
    let memory = ProcessMemory::open(pid).map_err(failed)?;
    vdso::fill(decided.layout(prepared), &memory).map_err(failed)?;
    pages::fill_memory(ctx, (mm, &decided.inherited.missing), &memory)?;
    let filter = format!("{:#x}\n", mm.controls.coredump_filter);
    fs::write(format!("/proc/{pid}/coredump_filter"), filter).map_err(failed)
}

/// Final protections, locks, guard pages, names and prctl state of the
/// address space, once pages are filled.
pub(crate) fn finish(
    mm: &MmState,
    (prepared, decided): (&Prepared, &Decided),
    script: &mut Script,
) {
    vdso::protect(decided.layout(prepared), script);
    mm::set_controls(mm, script);
    for vma in &mm.vmas {
        vma::finish(mm, vma, script);
    }
    lock_future(mm, script);
}

/// Nothing that stays is mapped after this, and privileges and limits are
/// still ours.
fn lock_future(mm: &MmState, script: &mut Script) {
    let flags = match mm.controls.mlock_future {
        MlockFuture::No => return,
        MlockFuture::Locked => libc::MCL_FUTURE,
        MlockFuture::OnFault => libc::MCL_FUTURE | libc::MCL_ONFAULT,
    };
    let nr = libc::SYS_mlockall as u32;
    script.call("lock future areas", nr, [flags as u64]);
}

/// What comes after everything else in this address space, the last thing
/// before its threads are let go: seals, MDWE.
pub(crate) fn last(mm: &MmState, script: &mut Script) {
    for vma in mm.vmas.iter().filter(|vma| vma.flags.sealed) {
        let args = [vma.start, vma.end - vma.start, 0];
        script.call(at("seal", vma), vma::SYS_MSEAL, args);
    }
    if mm.controls.mdwe != 0 {
        let args = [
            libc::PR_SET_MDWE as u64,
            u64::from(mm.controls.mdwe),
            0,
            0,
            0,
        ];
        script.call("set MDWE", libc::SYS_prctl as u32, args);
    }
}

/// What is done to which area, for a script's errors.
pub(super) fn at(what: &str, vma: &Vma) -> String {
    format!("{what} the area {:#x}-{:#x}", vma.start, vma.end)
}

/// Whether the kernel itself provides an area.
pub(super) fn is_kernels_own(vma: &Vma) -> bool {
    matches!(
        vma.backing,
        Backing::Vdso | Backing::Vvar | Backing::VvarVclock | Backing::Vsyscall
    )
}

/// Whether an area comes back empty although the image holds its pages:
/// random state must not be the same in two copies.
pub(super) fn comes_back_empty(ctx: &RestoreContext<'_>, vma: &Vma) -> bool {
    vma.flags.wipe_on_fork && ctx.options.pids != PidPolicy::Same
}
