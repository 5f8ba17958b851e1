//! One area: mapping it, and what it gets once its pages are there.

use icecore_images::Checkpoint;
use icecore_images::mm::{Backing, MmState, Vma};
use icecore_images::prctl::NumaPolicy;
use icecore_images::shmem::ShmemKind;

use super::mapped::MappedFiles;
use super::memory::{at, is_kernels_own};
use crate::kernel::shared_memory::huge_map_flags;
use crate::tracer::Script;

/// mseal(2), which libc lacks.
pub(super) const SYS_MSEAL: u32 = 462;
/// MAP_DROPPABLE, in place of MAP_PRIVATE or MAP_SHARED.
const MAP_DROPPABLE: u32 = 0x8;
const MADV_GUARD_INSTALL: u64 = 102;
const PR_SET_VMA: u64 = 0x5356_4d41;
const PR_SET_VMA_ANON_NAME: u64 = 0;

const WRITE: u32 = libc::PROT_WRITE as u32;

/// Maps all `missing` areas but the kernel's own. `scratch` is a free range as large as
/// any area; without one, areas that look alike may merge with their
/// neighbours.
///
/// Seals come in between: they would keep writable areas from being mapped,
/// and are what keeps others from ever becoming writable.
pub(super) fn map_all(
    image: &Checkpoint,
    mm: &MmState,
    (files, missing): (&MappedFiles, &dyn Fn(&Vma) -> bool),
    scratch: Option<u64>,
    script: &mut Script,
) {
    let mut areas = Vec::with_capacity(mm.vmas.len());
    for (i, vma) in mm.vmas.iter().enumerate() {
        if is_kernels_own(vma) || !missing(vma) {
            continue;
        }
        let before = i.checked_sub(1).and_then(|i| mm.vmas.get(i));
        let after = mm.vmas.get(i + 1);
        let apart = before.is_some_and(|b| would_merge(b, vma))
            || after.is_some_and(|a| would_merge(vma, a));
        areas.push((vma, apart));
    }
    areas.sort_by_key(|(vma, _)| is_sealed(vma));
    let first_sealed = areas.iter().position(|(vma, _)| is_sealed(vma));
    for (i, (vma, apart)) in areas.into_iter().enumerate() {
        if Some(i) == first_sealed {
            seal(image, mm, files, script);
        }
        match scratch.filter(|_| apart) {
            _ if segment(image, vma).is_some() => attach(image, vma, script),
            Some(scratch) => map_apart(mm, vma, files, scratch, script),
            None => map(mm, vma, files, vma.start, script),
        }
        advise(mm, vma, script);
    }
}

fn is_sealed(vma: &Vma) -> bool {
    matches!(vma.backing, Backing::Shmem { sealed: true, .. })
}

/// Seals the objects behind areas that depend on it.
fn seal(image: &Checkpoint, mm: &MmState, files: &MappedFiles, script: &mut Script) {
    let mut done = Vec::new();
    for vma in mm.vmas.iter().filter(|vma| is_sealed(vma)) {
        let (Backing::Shmem { id, .. }, Some(fd)) = (&vma.backing, files.fd(vma)) else {
            continue;
        };
        let object = image.shmems.get(id.0 as usize);
        let Some(ShmemKind::MemFd { seals, .. }) = object.map(|object| &object.kind) else {
            continue;
        };
        if !done.contains(id) {
            done.push(*id);
            let args = [u64::from(fd), libc::F_ADD_SEALS as u64, u64::from(*seals)];
            script.call("seal a memfd", libc::SYS_fcntl as u32, args);
        }
    }
}

/// The protection an area has while it is filled: writable where there are
/// pages to fill in. Where the kernel had never counted it as writable it must
/// not now; such an area is filled by force.
pub(super) fn filling_protection(mm: &MmState, vma: &Vma) -> u32 {
    let counted = vma.flags.account || vma.flags.no_reserve || is_huge(vma);
    match !vma.shared && counted && has_pages(mm, vma) {
        true => vma.prot | WRITE,
        false => vma.prot,
    }
}

fn is_huge(vma: &Vma) -> bool {
    matches!(vma.backing, Backing::AnonymousHuge { .. })
}

/// Whether any page of the area is stored.
fn has_pages(mm: &MmState, vma: &Vma) -> bool {
    let first = mm
        .pages
        .partition_point(|e| e.start + e.count * icecore_images::pages::PAGE_SIZE <= vma.start);
    mm.pages.get(first).is_some_and(|e| e.start < vma.end)
}

/// An area was once counted as writable memory but is not writable now: it
/// is mapped writable so that it is counted again.
fn initial_protection(mm: &MmState, vma: &Vma) -> u32 {
    match vma.flags.account && !vma.shared {
        true => vma.prot | WRITE,
        false => filling_protection(mm, vma),
    }
}

fn map(mm: &MmState, vma: &Vma, files: &MappedFiles, address: u64, script: &mut Script) {
    let fd = files.fd(vma).map_or(u64::MAX, u64::from);
    let offset = match vma.backing {
        Backing::Shmem { offset, .. } | Backing::File { offset, .. } => offset,
        _ => 0,
    };
    let args = [
        address,
        vma.end - vma.start,
        u64::from(initial_protection(mm, vma)),
        u64::from(map_flags(vma)),
        fd,
        offset,
    ];
    script.call(at("map", vma), libc::SYS_mmap as u32, args);
}

/// The System V shared memory segment that an area is an attachment of.
fn segment(image: &Checkpoint, vma: &Vma) -> Option<u32> {
    let Backing::Shmem { id, .. } = vma.backing else {
        return None;
    };
    match image.shmems.get(id.0 as usize)?.kind {
        ShmemKind::SysV { shm_id, .. } => Some(shm_id),
        _ => None,
    }
}

/// Segments are attached as a whole, and not by their file: they count by whom
/// they are attached, and can be detached.
fn attach(image: &Checkpoint, vma: &Vma, script: &mut Script) {
    let (Some(shm_id), Backing::Shmem { writable, .. }) = (segment(image, vma), &vma.backing)
    else {
        return;
    };
    let (flags, given) = match writable {
        true => (0, libc::PROT_READ as u32 | WRITE),
        false => (libc::SHM_RDONLY as u64, libc::PROT_READ as u32),
    };
    let args = [u64::from(shm_id), vma.start, flags];
    script.call(at("attach", vma), libc::SYS_shmat as u32, args);
    if vma.prot != given {
        let args = [vma.start, vma.end - vma.start, u64::from(vma.prot)];
        script.call(at("protect", vma), libc::SYS_mprotect as u32, args);
    }
}

fn map_flags(vma: &Vma) -> u32 {
    let flag = |set: bool, flag: i32| if set { flag as u32 } else { 0 };
    let kind = match (&vma.flags, vma.shared) {
        (f, _) if f.droppable => MAP_DROPPABLE,
        (f, true) if f.sync => (libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC) as u32,
        (_, true) => libc::MAP_SHARED as u32,
        (_, false) => libc::MAP_PRIVATE as u32,
    };
    let behind = match vma.backing {
        Backing::AnonymousHuge { page_size } => {
            libc::MAP_ANONYMOUS as u32 | huge_map_flags(page_size)
        }
        Backing::Anonymous => libc::MAP_ANONYMOUS as u32,
        _ => 0,
    };
    kind | behind
        | libc::MAP_FIXED_NOREPLACE as u32
        | flag(vma.flags.no_reserve, libc::MAP_NORESERVE)
        | flag(vma.flags.grows_down, libc::MAP_GROWSDOWN)
}

/// Whether two areas would become one if they were mapped side by side, which
/// they were not: each had got its first page before they came to touch.
fn would_merge(a: &Vma, b: &Vma) -> bool {
    a.end == b.start
        && a.backing == Backing::Anonymous
        && b.backing == Backing::Anonymous
        && (a.prot, a.flags, &a.numa, &a.anon_name) == (b.prot, b.flags, &b.numa, &b.anon_name)
        && can_be_kept_apart(a)
        && can_be_kept_apart(b)
}

fn can_be_kept_apart(vma: &Vma) -> bool {
    (vma.prot & WRITE != 0 || vma.flags.account) && !vma.flags.grows_down && !vma.flags.droppable
}

/// Maps an area elsewhere, has the kernel give it the marks of memory that
/// has been used, and moves it to its place: so it merges with no neighbour.
fn map_apart(mm: &MmState, vma: &Vma, files: &MappedFiles, scratch: u64, script: &mut Script) {
    let len = vma.end - vma.start;
    map(mm, vma, files, scratch, script);
    // getcpu writes a word to where it is told.
    script.call(at("touch", vma), libc::SYS_getcpu as u32, [scratch, 0, 0]);
    let dont_need = libc::MADV_DONTNEED as u64;
    script.call(
        at("empty", vma),
        libc::SYS_madvise as u32,
        [scratch, len, dont_need],
    );
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    let args = [scratch, len, len, flags, vma.start];
    script.call(at("move into place", vma), libc::SYS_mremap as u32, args);
}

/// Everything that pages to come depend on, and advice that is kept as a flag.
fn advise(mm: &MmState, vma: &Vma, script: &mut Script) {
    if let Some(policy) = &vma.numa {
        bind(vma, policy, script);
    }
    let f = &vma.flags;
    let merged_anyway = mm.controls.memory_merge;
    let advice = [
        (f.huge_page, libc::MADV_HUGEPAGE),
        (f.no_huge_page, libc::MADV_NOHUGEPAGE),
        (f.mergeable && !merged_anyway, libc::MADV_MERGEABLE),
        (f.dont_fork, libc::MADV_DONTFORK),
        (f.wipe_on_fork && !f.droppable, libc::MADV_WIPEONFORK),
        (f.dont_dump && !f.droppable, libc::MADV_DONTDUMP),
        (f.sequential, libc::MADV_SEQUENTIAL),
        (f.random, libc::MADV_RANDOM),
    ];
    for (_, advice) in advice.into_iter().filter(|(wanted, _)| *wanted) {
        advise_all(vma, advice as u64, script);
    }
}

fn advise_all(vma: &Vma, advice: u64, script: &mut Script) {
    let args = [vma.start, vma.end - vma.start, advice];
    script.call(at("advise on", vma), libc::SYS_madvise as u32, args);
}

fn bind(vma: &Vma, policy: &NumaPolicy, script: &mut Script) {
    let words: Vec<u8> = policy.nodes.iter().flat_map(|w| w.to_le_bytes()).collect();
    let mask = script.bytes(&words);
    // The kernel takes one bit less than it is told.
    let bits = policy.nodes.len() as u64 * 64 + 1;
    let args = [
        vma.start.into(),
        (vma.end - vma.start).into(),
        u64::from(policy.mode).into(),
        crate::tracer::Arg::from(mask),
        bits.into(),
        0.into(),
    ];
    script.call(
        at("set the memory policy of", vma),
        libc::SYS_mbind as u32,
        args,
    );
}

/// What an area gets once its pages are there.
pub(super) fn finish(mm: &MmState, vma: &Vma, script: &mut Script) {
    if is_kernels_own(vma) {
        return;
    }
    let len = vma.end - vma.start;
    for &(start, end) in &vma.guards {
        let args = [start, end - start, MADV_GUARD_INSTALL];
        script.call(at("install guards in", vma), libc::SYS_madvise as u32, args);
    }
    if initial_protection(mm, vma) != vma.prot {
        let args = [vma.start, len, u64::from(vma.prot)];
        script.call(at("protect", vma), libc::SYS_mprotect as u32, args);
    }
    if mm.controls.memory_merge && !vma.flags.mergeable && vma.backing == Backing::Anonymous {
        advise_all(vma, libc::MADV_UNMERGEABLE as u64, script);
    }
    if let Some(name) = &vma.anon_name {
        let name = script.c_string(&name.0);
        let args = [
            PR_SET_VMA.into(),
            PR_SET_VMA_ANON_NAME.into(),
            vma.start.into(),
            len.into(),
            crate::tracer::Arg::from(name),
        ];
        // A kernel without names has been mentioned by the plan.
        script.try_call(at("name", vma), libc::SYS_prctl as u32, args);
    }
    if vma.flags.locked && !vma.flags.droppable {
        let on_fault = u64::from(vma.flags.lock_on_fault);
        script.call(
            at("lock", vma),
            libc::SYS_mlock2 as u32,
            [vma.start, len, on_fault],
        );
    }
}
