//! Where the restorer lies in a process under restore: a page of code and,
//! behind it, room for one script. The place is free in the layout the process
//! has and in the one it is to get, so that it survives the change.

use std::iter::once;
use std::ops::Range;

use icecore_images::mm::MmState;
use icecore_parasite::{RESTORER_ENTRY, SCRIPT_HEADER, init, restorer};

use crate::kernel::maps::Area;
use crate::tracer::Script;

const PAGE: u64 = 4096;
/// First address that an area may have anywhere (`vm.mmap_min_addr`'s usual
/// value), and the end of the lower half.
const LOWEST: u64 = 0x10000;
const HIGHEST: u64 = 0x7fff_ffff_f000;
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// The restorer's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blob {
    base: u64,
    script_len: u64,
}

impl Blob {
    /// A place with room for scripts of `script_len` bytes, as far from
    /// everything as can be: stacks grow.
    pub(crate) fn place(now: &[Area], then: &MmState, script_len: usize) -> Option<Self> {
        let script_len = (script_len as u64).next_multiple_of(PAGE);
        let len = PAGE + script_len;
        let occupied = now
            .iter()
            .map(|a| a.start..a.end)
            .chain(then.vmas.iter().map(|v| v.start..v.end));
        let gap = largest_gap(occupied.collect())?;
        let room = gap.end - gap.start;
        (room >= len).then(|| Self {
            base: gap.start + (room - len) / 2 / PAGE * PAGE,
            script_len,
        })
    }

    /// The whole area.
    pub(crate) fn range(&self) -> Range<u64> {
        self.base..self.base + PAGE + self.script_len
    }

    /// Its code's page.
    pub(crate) fn code_page(&self) -> Range<u64> {
        self.base..self.base + PAGE
    }

    /// Where scripts are entered.
    pub(crate) fn entry(&self) -> u64 {
        self.base + RESTORER_ENTRY
    }

    /// What lies in the code page: the restorer and an init.
    pub(crate) fn code() -> Vec<u8> {
        let mut code = restorer().to_vec();
        code.resize(init_offset(), 0);
        code.extend(init());
        code
    }

    /// Where the init is entered.
    pub(crate) fn init(&self) -> u64 {
        self.base + init_offset() as u64
    }

    /// Where a script lies, its header first.
    pub(crate) fn script(&self) -> u64 {
        self.base + PAGE
    }

    /// The address of a `syscall` instruction in the code.
    pub(crate) fn gate(&self) -> Option<u64> {
        Some(self.base + find_gate(restorer())?)
    }
}

fn init_offset() -> usize {
    restorer().len().next_multiple_of(64)
}

/// Bytes that `script` takes with its header.
pub(crate) fn room_for(script: &Script) -> usize {
    SCRIPT_HEADER + script.loaded_len()
}

/// The offset of a `syscall` instruction in `code`.
pub(crate) fn find_gate(code: &[u8]) -> Option<u64> {
    let at = code.windows(2).position(|pair| pair == SYSCALL)?;
    Some(at as u64)
}

fn largest_gap(mut occupied: Vec<Range<u64>>) -> Option<Range<u64>> {
    occupied.sort_by_key(|r| r.start);
    let mut largest: Option<Range<u64>> = None;
    let mut free = LOWEST;
    for taken in occupied.into_iter().chain(once(HIGHEST..HIGHEST)) {
        let gap = free..taken.start.min(HIGHEST);
        let best = largest.as_ref().map_or(0, |g| g.end - g.start);
        if gap.end > gap.start && gap.end - gap.start > best {
            largest = Some(gap);
        }
        free = free.max(taken.end);
    }
    largest
}

/// What to unmap so that of the lower half only `kept` remains.
pub(crate) fn all_but(mut kept: Vec<Range<u64>>) -> Vec<Range<u64>> {
    kept.sort_by_key(|r| r.start);
    let mut rest = Vec::new();
    let mut from = 0;
    for keep in kept.into_iter().chain(once(HIGHEST..HIGHEST)) {
        if keep.start > from {
            rest.push(from..keep.start);
        }
        from = from.max(keep.end);
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_gap_is_found_between_overlapping_areas() {
        let gap = largest_gap(vec![0x30000..0x7fff_0000_0000, 0x20000..0x40000]);
        assert_eq!(gap, Some(0x7fff_0000_0000..HIGHEST));
        let all: Vec<Range<u64>> = vec![LOWEST..0x5000_0000, 0x5000_0000..HIGHEST];
        assert_eq!(largest_gap(all), None);
    }

    #[test]
    fn areas_beyond_the_lower_half_leave_it_free() {
        let gap = largest_gap(once(0x00ff_0000_0000_0000..0x00ff_0000_0001_0000).collect());
        assert_eq!(gap, Some(LOWEST..HIGHEST));
    }

    #[test]
    fn everything_but_what_is_kept_is_unmapped() {
        let rest = all_but(vec![0x5000..0x6000, 0x1000..0x2000, 0x2000..0x3000]);
        assert_eq!(rest, [0..0x1000, 0x3000..0x5000, 0x6000..HIGHEST]);
    }

    #[test]
    fn the_restorer_has_a_gate() {
        assert!(find_gate(restorer()).is_some());
    }
}
