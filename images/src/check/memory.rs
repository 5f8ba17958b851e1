//! Address spaces.

use super::files::{REGULAR, file_ref};
use super::numbers::{address, aligned, count, id, text, within};
use super::pages::{self, extents};
use super::problem::{At, CheckError, Found, Object, Problem};
use super::vma;
use crate::checkpoint::Checkpoint;
use crate::mm::{MmFields, MmState, VdsoState, Vma};
use crate::pages::PageExtent;
use crate::prctl::MmControls;

pub(super) fn check(image: &Checkpoint) -> Result<(), CheckError> {
    for (place, mm) in image.mms.iter().enumerate() {
        let object = Object::Mm(mm.id.0);
        id(mm.id.0, place).at(object)?;
        file_ref(image, "the program", &mm.exe, &[REGULAR]).at(object)?;
        fields(&mm.fields).at(object)?;
        controls(&mm.controls).at(object)?;
        vma::check_all(image, mm)?;
        if let Some(vdso) = &mm.vdso {
            vdso_symbols(vdso).at(object)?;
        }
        stored_pages(image, mm).at(object)?;
    }
    Ok(())
}

fn fields(f: &MmFields) -> Found {
    let addresses = [
        ("start_code", f.start_code),
        ("end_code", f.end_code),
        ("start_data", f.start_data),
        ("end_data", f.end_data),
        ("start_brk", f.start_brk),
        ("brk", f.brk),
        ("start_stack", f.start_stack),
        ("arg_start", f.arg_start),
        ("arg_end", f.arg_end),
        ("env_start", f.env_start),
        ("env_end", f.env_end),
    ];
    for (what, value) in addresses {
        address(what, value)?;
    }
    if f.brk < f.start_brk {
        return Err(Problem::Contradiction("brk lies below start_brk"));
    }
    aligned("length of auxv", f.auxv.0.len() as u64, 16)?;
    count("bytes of auxv", f.auxv.0.len(), 0..=4096)
}

fn controls(controls: &MmControls) -> Found {
    within("dumpable", controls.dumpable, 0..=2)?;
    within("thp_disable", controls.thp_disable, 0..=0xff)?;
    within("mdwe", controls.mdwe, 0..=3)
}

fn vdso_symbols(vdso: &VdsoState) -> Found {
    count("bytes of the vDSO", vdso.image.0.len(), 0..=1 << 20)?;
    count("vDSO symbols", vdso.symbols.len(), 0..=1024)?;
    for (name, offset) in &vdso.symbols {
        text("name of a vDSO symbol", name, 255)?;
        within("offset of a vDSO symbol", *offset, 0..=1 << 20)?;
    }
    Ok(())
}

/// Stored pages lie in areas that can hold pages of their own.
fn stored_pages(image: &Checkpoint, mm: &MmState) -> Found {
    extents(&mm.pages, &image.page_files)?;
    let mut areas = mm.vmas.as_slice();
    for extent in &mm.pages {
        let first = areas.partition_point(|vma| vma.end <= extent.start);
        areas = areas.get(first..).unwrap_or_default();
        covered(extent, areas)?;
    }
    Ok(())
}

/// An extent may lie across areas that adjoin.
fn covered(extent: &PageExtent, areas: &[Vma]) -> Found {
    let end = pages::end(extent)?;
    let mut at = extent.start;
    for vma in areas {
        if vma.start > at || !vma::has_own_pages(vma) {
            break;
        }
        at = vma.end;
        if at >= end {
            return Ok(());
        }
    }
    Err(Problem::Outside {
        what: "page extent",
        start: extent.start,
        end,
        within: "the areas that have pages of their own",
    })
}
