//! Where things may lie while an address space is rebuilt.

use std::ops::Range;

use icecore_images::mm::MmState;

use super::vdso::{Own, Plan, Unforwardable};
use crate::kernel::maps;

const PAGE: u64 = 4096;
/// First address worth using, and the end of what every process has.
const LOWEST: u64 = 0x10_0000;
const HIGHEST: u64 = 0x7fff_ffff_f000;

/// Decisions about an address space that all stages share.
#[derive(Debug)]
pub(crate) struct Layout {
    /// What becomes of the vDSO.
    pub(super) vdso: Plan,
    /// A range that is free in the old and the new layout, as large as any
    /// area; `None` if there is none.
    pub(super) scratch: Option<u64>,
}

/// Why there is no layout.
#[derive(Debug, thiserror::Error)]
pub(super) enum LayoutError {
    /// Our own address space could not be read.
    #[error("read this process's own memory map")]
    Own(#[from] std::io::Error),
    /// The vDSO of the dump cannot stand in for this kernel's.
    #[error(transparent)]
    Vdso(#[from] Unforwardable),
    /// Everything is full.
    #[error("the address space has no room to rebuild it")]
    Full,
}

impl Layout {
    /// Decides for `mm` in a process that is a copy of this one.
    pub(super) fn new(mm: &MmState, forward_vdso: bool) -> Result<Self, LayoutError> {
        Self::in_process(std::process::id(), mm, forward_vdso)
    }

    /// Decides for `mm` in process `pid`. Of the largest free range the middle
    /// is left to the restorer.
    pub(super) fn in_process(
        pid: u32,
        mm: &MmState,
        forward_vdso: bool,
    ) -> Result<Self, LayoutError> {
        let now = maps::read_maps(pid)?;
        let own = Own::read()?.placed(&now);
        let taken = now
            .iter()
            .map(|a| a.start..a.end)
            .chain(mm.vmas.iter().map(|v| v.start..v.end));
        let gap = largest_gap(taken.collect()).ok_or(LayoutError::Full)?;
        let eighth = (gap.end - gap.start) / 8 / PAGE * PAGE;
        let largest = mm.vmas.iter().map(|v| v.end - v.start).max().unwrap_or(0);
        Ok(Self {
            vdso: Plan::new(&own, mm, gap.start + eighth, forward_vdso)?,
            scratch: (largest <= eighth).then_some(gap.start + 2 * eighth),
        })
    }
}

fn largest_gap(mut taken: Vec<Range<u64>>) -> Option<Range<u64>> {
    taken.sort_by_key(|r| r.start);
    taken.push(HIGHEST..HIGHEST);
    let mut free = LOWEST;
    let mut largest: Option<Range<u64>> = None;
    for range in taken {
        let gap = free..range.start.min(HIGHEST);
        let len = gap.end.saturating_sub(gap.start);
        if len > largest.as_ref().map_or(0, |g| g.end - g.start) {
            largest = Some(gap);
        }
        free = free.max(range.end);
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_gap_is_found_whatever_overlaps() {
        let taken = vec![0x7000_0000_0000..0x7fff_0000_0000, 0x20_0000..0x40_0000];
        assert_eq!(largest_gap(taken), Some(0x40_0000..0x7000_0000_0000));
        assert_eq!(largest_gap(std::iter::once(0..HIGHEST).collect()), None);
        assert_eq!(largest_gap(vec![]), Some(LOWEST..HIGHEST));
    }
}
