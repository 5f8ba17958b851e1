//! Address spaces: the memory map with what is stored where.

use std::fmt::Write as _;

use icecore_images::Checkpoint;
use icecore_images::mm::{Backing, MmState, Vma};
use icecore_images::pages::{PAGE_SIZE, PageExtent, PageSource};
use icecore_images::shmem::ShmemKind;
use indicatif::BinaryBytes;

use super::table::Table;
use super::words;

/// Shows an address space. Writing to a string cannot fail.
pub(super) fn show(out: &mut String, image: &Checkpoint, mm: &MmState) {
    let users: Vec<String> = image
        .tasks
        .iter()
        .filter(|task| task.mm == mm.id)
        .map(|task| task.pid.to_string())
        .collect();
    let mapped: u64 = mm.vmas.iter().map(|vma| vma.end - vma.start).sum();
    let stored = Stored::within(&mm.pages, 0, u64::MAX);
    let _ = writeln!(
        out,
        "\nMEMORY of {}: {}, {} mapped, {} stored{}",
        users.join(", "),
        words::count(mm.vmas.len(), "area"),
        BinaryBytes(mapped),
        BinaryBytes(stored.bytes),
        stored.known_zero(),
    );
    let headings = ["addresses", "size", "prot", "stored", "at", "what"];
    let mut table = Table::new(headings, &[0, 1, 3]);
    for vma in &mm.vmas {
        table.row(area(image, mm, vma));
    }
    table.write(out);
}

/// What of an area is in the page files.
#[derive(Default)]
struct Stored {
    bytes: u64,
    zero: u64,
    extents: usize,
    first: Option<(u32, u64)>,
}

impl Stored {
    /// Of the extents what lies between two addresses: an extent may reach
    /// across areas that adjoin.
    fn within(extents: &[PageExtent], start: u64, end: u64) -> Self {
        let mut stored = Self::default();
        let first = extents.partition_point(|extent| end_of(extent) <= start);
        for extent in extents.iter().skip(first) {
            if extent.start >= end {
                break;
            }
            let skipped = start.saturating_sub(extent.start);
            let bytes = end_of(extent).min(end) - extent.start - skipped;
            match extent.source {
                PageSource::File { file, offset } => {
                    stored.bytes += bytes;
                    stored.extents += 1;
                    stored.first.get_or_insert((file, offset + skipped));
                }
                PageSource::Zero => stored.zero += bytes,
                PageSource::Parent => {}
            }
        }
        stored
    }

    fn known_zero(&self) -> String {
        match self.zero {
            0 => String::new(),
            zero => format!(", {} zero", BinaryBytes(zero)),
        }
    }

    /// Where the first of it is, and in how many pieces.
    fn place(&self) -> String {
        let Some((file, offset)) = self.first else {
            return "-".to_owned();
        };
        match self.extents {
            1 => format!("pages-{file}+{offset:#x}"),
            n => format!("pages-{file}+{offset:#x} … {n} pieces"),
        }
    }
}

fn end_of(extent: &PageExtent) -> u64 {
    extent.start + extent.count * PAGE_SIZE
}

fn area(image: &Checkpoint, mm: &MmState, vma: &Vma) -> [String; 6] {
    let stored = Stored::within(&mm.pages, vma.start, vma.end);
    let bytes = match (stored.bytes, stored.zero) {
        (0, 0) => "-".to_owned(),
        (0, zero) => format!("{} zero", BinaryBytes(zero)),
        (bytes, _) => BinaryBytes(bytes).to_string(),
    };
    [
        format!("{:x}-{:x}", vma.start, vma.end),
        BinaryBytes(vma.end - vma.start).to_string(),
        protection(vma),
        bytes,
        stored.place(),
        what(image, mm, vma),
    ]
}

/// `rw-p`, as `/proc/PID/maps` shows it.
fn protection(vma: &Vma) -> String {
    let bit = |bit: u32, letter| if vma.prot & bit != 0 { letter } else { '-' };
    let sharing = if vma.shared { 's' } else { 'p' };
    String::from_iter([bit(1, 'r'), bit(2, 'w'), bit(4, 'x'), sharing])
}

fn what(image: &Checkpoint, mm: &MmState, vma: &Vma) -> String {
    let mut what = match &vma.backing {
        Backing::Anonymous => anonymous(mm, vma),
        Backing::AnonymousHuge { page_size } => {
            format!("huge pages of {}", BinaryBytes(*page_size))
        }
        Backing::Shmem { id, offset, .. } => {
            let shmem = image.shmems.get(id.0 as usize);
            let object = match shmem.map(|shmem| &shmem.kind) {
                Some(ShmemKind::MemFd { name, .. }) => format!("memfd {name}"),
                _ => format!("shared memory {id}"),
            };
            with_offset(object, *offset)
        }
        Backing::File { file, offset, .. } => with_offset(words::file(file), *offset),
        Backing::Vdso => "[vdso]".to_owned(),
        Backing::Vvar => "[vvar]".to_owned(),
        Backing::VvarVclock => "[vvar_vclock]".to_owned(),
        Backing::Vsyscall => "[vsyscall]".to_owned(),
    };
    for flag in flags(vma) {
        what = what + ", " + flag;
    }
    if !vma.guards.is_empty() {
        what = what + ", " + &words::count(vma.guards.len(), "guard region");
    }
    what
}

/// Which of a program's own areas it is.
fn anonymous(mm: &MmState, vma: &Vma) -> String {
    let holds = |address: u64| vma.start <= address && address < vma.end;
    let fields = &mm.fields;
    match &vma.anon_name {
        Some(name) => format!("[anon:{name}]"),
        None if holds(fields.start_stack) => "[stack]".to_owned(),
        None if vma.start < fields.brk && vma.end > fields.start_brk => "[heap]".to_owned(),
        None => "anonymous".to_owned(),
    }
}

fn with_offset(object: String, offset: u64) -> String {
    match offset {
        0 => object,
        offset => format!("{object} from {offset:#x}"),
    }
}

fn flags(vma: &Vma) -> Vec<&'static str> {
    let f = &vma.flags;
    let named = [
        (f.grows_down, "grows down"),
        (f.locked && !f.lock_on_fault, "locked"),
        (f.lock_on_fault, "locked on fault"),
        (f.huge_page, "wants huge pages"),
        (f.no_huge_page, "no huge pages"),
        (f.mergeable, "mergeable"),
        (f.dont_fork, "not inherited"),
        (f.wipe_on_fork, "wiped in children"),
        (f.dont_dump, "not in core dumps"),
        (f.sequential, "read sequentially"),
        (f.random, "read randomly"),
        (f.sealed, "sealed"),
        (f.droppable, "droppable"),
        (f.sync, "synchronous"),
    ];
    named
        .into_iter()
        .filter(|(set, _)| *set)
        .map(|(_, name)| name)
        .collect()
}
