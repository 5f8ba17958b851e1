//! Unused bytes at the end of executable pages: where a stub may lie in a
//! process that has no vDSO, or one without room.
//!
//! The executable segment of a program or library seldom ends with its last
//! page. What follows there is mapped, but belongs to no segment: nothing of the
//! program refers to it. Only such bytes are taken, and only where they are zero,
//! which they are again afterwards. The page they are in, written to, becomes the
//! process's own copy; the file is not touched.

use goblin::elf::ProgramHeader;
use goblin::elf::program_header::{PF_X, PT_LOAD};

use super::memory::Memory;
use crate::kernel::elf;
use crate::kernel::maps::Area;

/// A run of bytes that nothing refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tail {
    /// Its first byte.
    pub(super) address: u64,
    /// What is there.
    pub(super) bytes: Vec<u8>,
}

const EXECUTABLE: u32 = (libc::PROT_READ | libc::PROT_EXEC) as u32;
/// What a tail is aligned to.
const ALIGN: u64 = 64;

/// The tails of all executable segments, in the order of their addresses.
pub(super) fn of_segments(areas: &[Area], memory: &Memory) -> Vec<Tail> {
    let code = areas
        .iter()
        .filter(|a| a.prot == EXECUTABLE && !a.shared && a.inode != 0);
    code.filter_map(|area| {
        let headers = headers_of(area, areas, memory)?;
        let (start, end) = tail(area, &headers)?;
        let mut bytes = vec![0; (end - start) as usize];
        memory.read(start, &mut bytes).ok()?;
        let address = start;
        Some(Tail { address, bytes })
    })
    .collect()
}

/// The program headers of the file that `area` maps, where its beginning is
/// mapped too.
fn headers_of(area: &Area, areas: &[Area], memory: &Memory) -> Option<Vec<ProgramHeader>> {
    let first = areas
        .iter()
        .find(|a| a.offset == 0 && (a.device, a.inode) == (area.device, area.inode))?;
    elf::program_headers(|at, buffer| {
        let end = at.checked_add(buffer.len() as u64)?;
        let inside = end <= first.len();
        inside.then(|| memory.read(first.start + at, buffer).ok())?
    })
}

/// What of the last page of `area` lies behind the one executable segment whose
/// end the area holds.
fn tail(area: &Area, headers: &[ProgramHeader]) -> Option<(u64, u64)> {
    let mapped = area.offset..area.offset + area.len();
    let mut ends = headers
        .iter()
        .filter(|h| h.p_type == PT_LOAD && h.p_flags & PF_X != 0)
        .filter(|h| h.p_memsz == h.p_filesz)
        .filter_map(|h| h.p_offset.checked_add(h.p_filesz))
        .filter(|end| *end > mapped.start && *end <= mapped.end);
    let (end, None) = (ends.next()?, ends.next()) else {
        return None;
    };
    let start = (area.start + (end - area.offset)).checked_next_multiple_of(ALIGN)?;
    let page_end = area.end;
    (page_end.checked_sub(start)? < 4096).then_some((start, page_end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(offset: u64, pages: u64) -> Area {
        Area {
            start: 0x10_0000,
            end: 0x10_0000 + pages * 4096,
            prot: EXECUTABLE,
            shared: false,
            offset,
            device: 1,
            inode: 2,
            name: b"/lib/x".to_vec(),
            details: None,
        }
    }

    fn code(offset: u64, len: u64) -> ProgramHeader {
        ProgramHeader {
            p_type: PT_LOAD,
            p_flags: PF_X,
            p_offset: offset,
            p_filesz: len,
            p_memsz: len,
            ..ProgramHeader::new()
        }
    }

    #[test]
    fn a_tail_lies_between_the_segment_and_the_end_of_its_page() {
        let found = tail(&area(0x1000, 2), &[code(0x1000, 0x1801)]);
        assert_eq!(found, Some((0x10_1840, 0x10_2000)));
    }

    #[test]
    fn a_segment_that_fills_its_pages_has_none() {
        assert_eq!(
            tail(&area(0x1000, 2), &[code(0x1000, 0x2000)]),
            Some((0x10_2000, 0x10_2000))
        );
        // Pages after the end are no tail: who mapped them has a use for them.
        assert_eq!(tail(&area(0x1000, 3), &[code(0x1000, 0x1801)]), None);
        // The area is another part of the file.
        assert_eq!(tail(&area(0x9000, 1), &[code(0x1000, 0x1801)]), None);
        // Two segments end here.
        let two = [code(0x1000, 0x100), code(0x1200, 0x100)];
        assert_eq!(tail(&area(0x1000, 1), &two), None);
    }

    #[test]
    fn this_program_has_one() {
        let pid = std::process::id();
        let areas = crate::kernel::maps::read_maps(pid).unwrap();
        let memory = Memory::open(pid).unwrap();
        let tails = of_segments(&areas, &memory);
        assert!(tails.iter().any(|t| t.bytes.len() > 1000), "{tails:?}");
    }
}
