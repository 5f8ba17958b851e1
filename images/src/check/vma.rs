//! Areas of an address space.

use super::USER_END;
use super::files::{CHARACTER, REGULAR, file_ref};
use super::numbers::{aligned, bits, count, huge_page_size, offset, refers, text, within};
use super::problem::{At, CheckError, Found, Object, Problem};
use crate::checkpoint::Checkpoint;
use crate::ids::ShmemId;
use crate::mm::{Backing, MmState, Vma};
use crate::pages::PAGE_SIZE;
use crate::prctl::NumaPolicy;
use crate::shmem::ShmemKind;

/// Far more than the kernel's own areas take (a few pages).
const KERNELS_MOST: u64 = 1 << 20;

/// Where `[vsyscall]` is on every machine.
const VSYSCALL: (u64, u64) = (0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000);

pub(super) fn check_all(image: &Checkpoint, mm: &MmState) -> Result<(), CheckError> {
    let mut free = 0;
    for vma in &mm.vmas {
        let (mm, start) = (mm.id.0, vma.start);
        let object = Object::Area { mm, start };
        if start < free {
            let (what, value) = ("area", start);
            return Err(Problem::Order { what, value }.at(object));
        }
        free = vma.end;
        area(image, vma).at(object)?;
    }
    once_each(mm).at(Object::Mm(mm.id.0))
}

/// Private memory that is the task's own: its pages are in the image.
pub(super) fn has_own_pages(vma: &Vma) -> bool {
    !vma.shared && !is_kernels(&vma.backing)
}

/// The kernel provides it.
fn is_kernels(backing: &Backing) -> bool {
    match backing {
        Backing::Vdso | Backing::Vvar | Backing::VvarVclock | Backing::Vsyscall => true,
        Backing::Anonymous
        | Backing::AnonymousHuge { .. }
        | Backing::Shmem { .. }
        | Backing::File { .. } => false,
    }
}

fn once_each(mm: &MmState) -> Found {
    let kernels = mm.vmas.iter().filter(|vma| is_kernels(&vma.backing));
    let mut seen: Vec<&Backing> = Vec::new();
    for vma in kernels {
        if seen.contains(&&vma.backing) {
            let (what, value) = ("area of the kernel's", vma.start);
            return Err(Problem::Order { what, value });
        }
        seen.push(&vma.backing);
    }
    Ok(())
}

fn area(image: &Checkpoint, vma: &Vma) -> Found {
    range(vma)?;
    within("protection", vma.prot, 0..=7)?;
    within("protection key", vma.pkey, 0..=15)?;
    backing(image, vma)?;
    flags(vma)?;
    guards(vma)?;
    if let Some(policy) = &vma.numa {
        numa(policy)?;
    }
    match &vma.anon_name {
        // ANON_VMA_NAME_MAX_LEN, its zero byte included.
        Some(name) => text("name of an area", name, 79),
        None => Ok(()),
    }
}

fn range(vma: &Vma) -> Found {
    aligned("start", vma.start, PAGE_SIZE)?;
    aligned("end", vma.end, PAGE_SIZE)?;
    if vma.start >= vma.end {
        return Err(Problem::Contradiction("it ends before it starts"));
    }
    if is_kernels(&vma.backing) {
        within("length", vma.end - vma.start, PAGE_SIZE..=KERNELS_MOST)?;
    }
    let fits = match vma.backing {
        Backing::Vsyscall => (vma.start, vma.end) == VSYSCALL,
        _ => vma.end <= USER_END,
    };
    match fits {
        true => Ok(()),
        false => Err(Problem::Outside {
            what: "area",
            start: vma.start,
            end: vma.end,
            within: "the address space",
        }),
    }
}

fn backing(image: &Checkpoint, vma: &Vma) -> Found {
    let file_range = |start: u64| {
        aligned("offset", start, PAGE_SIZE)?;
        offset("offset", start)?;
        // Neither sum overflows: both terms are below 2^63.
        offset("end in the file", start + (vma.end - vma.start))
    };
    match &vma.backing {
        Backing::Anonymous => private(vma),
        Backing::AnonymousHuge { page_size } => {
            private(vma)?;
            huge_page_size(*page_size)?;
            aligned("start", vma.start, *page_size)?;
            aligned("end", vma.end, *page_size)
        }
        Backing::Shmem { id, offset, .. } => {
            refers("shared memory object", id.0, image.shmems.len())?;
            file_range(*offset)?;
            attachment(image, vma, *id, *offset)
        }
        Backing::File { file, offset, .. } => {
            file_ref(image, "a mapped file", file, &[REGULAR, CHARACTER])?;
            file_range(*offset)
        }
        Backing::Vdso | Backing::Vvar | Backing::VvarVclock | Backing::Vsyscall => private(vma),
    }
}

/// Segments are attached as a whole.
fn attachment(image: &Checkpoint, vma: &Vma, id: ShmemId, offset: u64) -> Found {
    let object = &image.shmems[id.0 as usize];
    if !matches!(object.kind, ShmemKind::SysV { .. }) {
        return Ok(());
    }
    let whole = object.size.checked_next_multiple_of(PAGE_SIZE) == Some(vma.end - vma.start);
    match vma.shared && offset == 0 && whole {
        true => Ok(()),
        false => Err(Problem::Contradiction(
            "it is a part of a System V shared memory segment",
        )),
    }
}

fn private(vma: &Vma) -> Found {
    match vma.shared {
        true => Err(Problem::Contradiction(
            "it is shared, by what backs it is not",
        )),
        false => Ok(()),
    }
}

fn flags(vma: &Vma) -> Found {
    let f = &vma.flags;
    let contradiction = if f.huge_page && f.no_huge_page {
        "huge pages are both wanted and not wanted"
    } else if f.sequential && f.random {
        "access is both sequential and random"
    } else if f.lock_on_fault && !f.locked {
        "it is locked on fault, but not locked"
    } else if f.droppable && vma.backing != Backing::Anonymous {
        "it is droppable, but not anonymous"
    } else {
        return Ok(());
    };
    Err(Problem::Contradiction(contradiction))
}

fn guards(vma: &Vma) -> Found {
    let mut free = vma.start;
    for &(start, end) in &vma.guards {
        aligned("guard region", start, PAGE_SIZE)?;
        aligned("guard region", end, PAGE_SIZE)?;
        if start < free || start >= end || end > vma.end {
            return Err(Problem::Outside {
                what: "guard region",
                start,
                end,
                within: "its area or the next guard region",
            });
        }
        free = end;
    }
    Ok(())
}

/// A NUMA policy: modes 0 to 15 and the three mode flags; as many nodes as any
/// kernel has.
pub(super) fn numa(policy: &NumaPolicy) -> Found {
    bits("NUMA mode", u64::from(policy.mode), 0xe00f)?;
    count("words of NUMA nodes", policy.nodes.len(), 0..=64)
}
