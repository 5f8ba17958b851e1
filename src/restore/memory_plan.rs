//! What may stand in the way of an address space, found before anything is
//! created.

use std::collections::HashMap;
use std::fs;

use icecore_images::mm::{Backing, MmState, Vma};
use icecore_images::regular::FileRef;
use icecore_images::shmem::ShmemKind;
use icecore_images::task::TaskState;
use rustix::thread::CapabilitySet;

use super::RestoreContext;
use super::file_ref::{self, Check};
use super::layout::Layout;
use super::sysv_shm;
use super::vdso;
use crate::blocker::Place;
use crate::kernel::{maps, vma_names};

/// Areas that a restore needs for itself.
const SPARE_AREAS: usize = 8;
/// End of the address space where pages have four levels.
const FOUR_LEVELS: u64 = 0x7fff_ffff_f000;

/// Notes all obstacles.
pub(super) fn plan(ctx: &mut RestoreContext<'_>) {
    let image = ctx.image;
    let mut seen = Seen::new();
    for mm in &image.mms {
        mapped_files(ctx, mm, &mut seen);
        let Some(task) = image.tasks.iter().find(|task| task.mm == mm.id) else {
            continue;
        };
        area_count(ctx, task, mm);
        addresses(ctx, task, mm);
        forwarding(ctx, task, mm);
        nodes(ctx, task, mm);
        kernel_features(ctx, mm);
        names(ctx, task, mm);
    }
    huge_pages(ctx);
    sysv_shm::plan(ctx);
    privileges(ctx);
}

/// All files that are not what they were, not only the first; each looked at
/// once, however many tasks map it.
fn mapped_files<'a>(ctx: &mut RestoreContext<'a>, mm: &'a MmState, seen: &mut Seen<'a>) {
    let of_areas = mm.vmas.iter().filter_map(|vma| match &vma.backing {
        Backing::File { file, .. } => Some(file),
        _ => None,
    });
    for file in of_areas.chain([&mm.exe]) {
        let known = seen.entry(&file.path.0).or_default();
        if !known.contains(&file) {
            known.push(file);
            file_ref::check(ctx, file, Check::Contents);
        }
    }
}

/// Files that have been looked at, by path.
type Seen<'a> = HashMap<&'a [u8], Vec<&'a FileRef>>;

fn area_count(ctx: &mut RestoreContext<'_>, task: &TaskState, mm: &MmState) {
    let Some(most) = number("/proc/sys/vm/max_map_count") else {
        return;
    };
    let needed = mm.vmas.len() + SPARE_AREAS;
    if needed as u64 > most {
        let place = Place::Task { pid: task.pid };
        let problem = format!("{needed} areas of memory are needed, {most} are allowed");
        let help = format!("sysctl vm.max_map_count={needed}");
        ctx.obstacle(place, problem, Some(&help));
    }
}

fn addresses(ctx: &mut RestoreContext<'_>, task: &TaskState, mm: &MmState) {
    let lowest = number("/proc/sys/vm/mmap_min_addr").unwrap_or(0);
    let may_go_lower = has_capability(CapabilitySet::SYS_RAWIO);
    for vma in mm.vmas.iter().filter(|v| v.backing != Backing::Vsyscall) {
        if vma.start < lowest && !may_go_lower {
            let problem = format!("area lies below this machine's lowest address {lowest:#x}");
            let help = "sysctl vm.mmap_min_addr=0, or CAP_SYS_RAWIO";
            ctx.obstacle(area(task, vma), problem, Some(help));
        }
        if vma.end > FOUR_LEVELS && !has_five_levels() {
            let problem = "area needs five-level page tables, which this machine lacks".to_owned();
            ctx.obstacle(area(task, vma), problem, None);
        }
    }
}

fn has_five_levels() -> bool {
    fs::read_to_string("/proc/cpuinfo")
        .is_ok_and(|text| text.split_ascii_whitespace().any(|word| word == "la57"))
}

/// Whether the vDSO can be had, by moving this kernel's or by forwarding.
fn forwarding(ctx: &mut RestoreContext<'_>, task: &TaskState, mm: &MmState) {
    let place = Place::Task { pid: task.pid };
    match Layout::new(mm, ctx.options.forward_vdso) {
        Err(e) => ctx.obstacle(place, e.to_string(), None),
        Ok(Layout {
            vdso: vdso::Plan::Forward(_),
            ..
        }) => inside_vdso(ctx, task, mm),
        Ok(_) => {}
    }
    let vsyscall = |areas: &[maps::Area]| areas.iter().any(|a| a.name == b"[vsyscall]");
    let had = mm.vmas.iter().any(|v| v.backing == Backing::Vsyscall);
    if had && maps::read_maps(std::process::id()).is_ok_and(|own| !vsyscall(&own)) {
        ctx.notes.push(format!(
            "pid {}: this kernel has no [vsyscall] page; only very old programs need it",
            task.pid
        ));
    }
}

/// A thread that stands inside the old vDSO's code cannot go on in it.
fn inside_vdso(ctx: &mut RestoreContext<'_>, task: &TaskState, mm: &MmState) {
    let Some(old) = mm.vmas.iter().find(|v| v.backing == Backing::Vdso) else {
        return;
    };
    for thread in &task.threads {
        if (old.start..old.end).contains(&thread.registers.rip) {
            let place = Place::Thread {
                pid: task.pid,
                tid: thread.tid,
            };
            let problem = "was inside the vDSO, and this kernel has another one".to_owned();
            let help = "restore on the kernel of the dump, or dump again";
            ctx.obstacle(place, problem, Some(help));
        }
    }
}

fn nodes(ctx: &mut RestoreContext<'_>, task: &TaskState, mm: &MmState) {
    let possible = possible_nodes();
    for vma in &mm.vmas {
        let Some(policy) = &vma.numa else { continue };
        let highest = policy
            .nodes
            .iter()
            .rposition(|word| *word != 0)
            .map_or(0, |i| {
                i as u64 * 64 + 63 - u64::from(policy.nodes[i].leading_zeros())
            });
        if highest >= possible {
            let problem = format!("area's memory policy names node {highest}, which is not here");
            ctx.obstacle(area(task, vma), problem, None);
        }
    }
}

/// One more than the highest node, from a list such as `0-1,4`.
fn possible_nodes() -> u64 {
    let list = fs::read_to_string("/sys/devices/system/node/possible").unwrap_or_default();
    let last = list.trim().rsplit([',', '-']).next();
    last.and_then(|n| n.parse::<u64>().ok())
        .map_or(1, |n| n + 1)
}

/// Attributes that a kernel may have been built without.
fn kernel_features(ctx: &mut RestoreContext<'_>, mm: &MmState) {
    let advised = |v: &Vma| v.flags.huge_page || v.flags.no_huge_page;
    let thp = fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap_or(false);
    if mm.vmas.iter().any(advised) && !thp {
        let problem = "this kernel has no transparent huge pages, which areas ask for".to_owned();
        let help = "restore on a kernel with CONFIG_TRANSPARENT_HUGEPAGE";
        ctx.obstacle(Place::Machine, problem, Some(help));
    }
    let merging = mm.controls.memory_merge || mm.vmas.iter().any(|v| v.flags.mergeable);
    if merging && !fs::exists("/sys/kernel/mm/ksm").unwrap_or(false) {
        let problem = "this kernel cannot merge pages, which areas ask for".to_owned();
        let help = "restore on a kernel with CONFIG_KSM";
        ctx.obstacle(Place::Machine, problem, Some(help));
    }
}

/// Names are for people: without them the task is the same.
fn names(ctx: &mut RestoreContext<'_>, task: &TaskState, mm: &MmState) {
    let named = mm.vmas.iter().filter(|v| v.anon_name.is_some()).count();
    if named != 0 && !vma_names::are_kept() {
        ctx.note(format!(
            "pid {}: this kernel keeps no names of anonymous memory (CONFIG_ANON_VMA_NAME): \
             {named} are lost",
            task.pid
        ));
    }
}

fn huge_pages(ctx: &mut RestoreContext<'_>) {
    let image = ctx.image;
    let mut needed = std::collections::BTreeMap::<u64, u64>::new();
    for vma in image.mms.iter().flat_map(|mm| &mm.vmas) {
        if let Backing::AnonymousHuge { page_size } = vma.backing {
            let pages = needed.entry(page_size).or_default();
            *pages = pages.saturating_add((vma.end - vma.start).div_ceil(page_size));
        }
    }
    for shmem in &image.shmems {
        let page_size = match shmem.kind {
            ShmemKind::AnonymousHuge { page_size } => page_size,
            ShmemKind::MemFd { huge_page_size, .. } => huge_page_size,
            ShmemKind::Anonymous | ShmemKind::SysV { .. } => 0,
        };
        if page_size != 0 {
            let pages = needed.entry(page_size).or_default();
            *pages = pages.saturating_add(shmem.size.div_ceil(page_size));
        }
    }
    for (page_size, needed) in needed {
        let kb = page_size / 1024;
        let dir = format!("/sys/kernel/mm/hugepages/hugepages-{kb}kB");
        let free = number(&format!("{dir}/free_hugepages")).unwrap_or(0);
        if needed > free {
            let problem = format!("{needed} huge pages of {kb} kB are needed, {free} are free");
            let help = format!(
                "echo N > {dir}/nr_hugepages, N being {} more",
                needed - free
            );
            ctx.obstacle(Place::Machine, problem, Some(&help));
        }
    }
}

fn privileges(ctx: &mut RestoreContext<'_>) {
    let any_of = CapabilitySet::CHECKPOINT_RESTORE | CapabilitySet::SYS_ADMIN;
    if !has_capability(any_of) {
        let problem = "the link to a task's program cannot be set".to_owned();
        ctx.obstacle(Place::Machine, problem, Some("CAP_CHECKPOINT_RESTORE"));
    }
}

/// Whether we have one of these capabilities in effect.
fn has_capability(any_of: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.intersects(any_of))
}

fn area(task: &TaskState, vma: &Vma) -> Place {
    Place::Area {
        pid: task.pid,
        start: vma.start,
        end: vma.end,
    }
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
