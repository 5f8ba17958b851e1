//! Pages that address spaces still share since a fork: stored once.
//!
//! After a fork parent and child have the same physical pages at the same
//! addresses, until one of them writes. The page map tells which page that is
//! (its frame number, to those with CAP_SYS_ADMIN) and whether nobody else has
//! it. Only pages that several address spaces of the dump have at the same
//! address are found here; the first of them stores the page.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;

use icecore_images::pages::{PAGE_SIZE, PageExtent, PageSource};

use crate::kernel::pagemap::{PageMap, Run};

/// Pages that an address space has in common with one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SharedRun {
    /// Index of the address space.
    pub(super) mm: usize,
    /// Index of the one that stores them.
    pub(super) origin: usize,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// A run taken apart.
#[derive(Debug)]
pub(super) struct Split {
    pub(super) shared: Vec<SharedRun>,
    /// Start and end of each.
    pub(super) own: Vec<(u64, u64)>,
}

/// What has been seen of the address spaces so far.
#[derive(Debug)]
pub(super) struct CopyOnWrite {
    /// Who stores a page, by its address and what the page map says of it.
    origins: HashMap<(u64, u64), usize, BuildHasherDefault<Mix>>,
    /// Nothing can be shared where there is only one.
    on: bool,
}

impl CopyOnWrite {
    /// Nothing seen yet of `count` address spaces.
    pub(super) fn new(count: usize) -> Self {
        Self {
            origins: HashMap::default(),
            on: count > 1,
        }
    }

    /// Takes apart a run of private pages of address space `mm`: those it
    /// shares with one before, and those it has to store itself.
    pub(super) fn split(&mut self, mm: usize, run: &Run, map: &PageMap) -> io::Result<Split> {
        if !self.on {
            return Ok(Split {
                shared: Vec::new(),
                own: vec![(run.start, run.end)],
            });
        }
        let (mut shared, mut own) = (Vec::new(), Vec::new());
        map.for_each_page(run.start, run.end, |address, frame| {
            let end = address + PAGE_SIZE;
            let key = frame.map(|frame| (address, frame));
            match key.map(|key| *self.origins.entry(key).or_insert(mm)) {
                Some(origin) if origin != mm => {
                    push_shared(&mut shared, mm, origin, (address, end));
                }
                _ => push(&mut own, (address, end)),
            }
        })?;
        Ok(Split { shared, own })
    }
}

/// Addresses and frame numbers, millions of them, hashed by two multiplications.
#[derive(Debug, Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.write_u64(b.into()));
    }

    fn write_u64(&mut self, word: u64) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(ODD);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

fn push(runs: &mut Vec<(u64, u64)>, run: (u64, u64)) {
    match runs.last_mut() {
        Some(last) if last.1 == run.0 => last.1 = run.1,
        _ => runs.push(run),
    }
}

fn push_shared(runs: &mut Vec<SharedRun>, mm: usize, origin: usize, run: (u64, u64)) {
    match runs.last_mut() {
        Some(last) if last.end == run.0 && last.origin == origin => last.end = run.1,
        _ => runs.push(SharedRun {
            mm,
            origin,
            start: run.0,
            end: run.1,
        }),
    }
}

/// What `extents` say of the pages from `start` to `end`.
pub(super) fn slice(
    extents: &[PageExtent],
    start: u64,
    end: u64,
) -> impl Iterator<Item = PageExtent> {
    let end_of = |extent: &PageExtent| extent.start + extent.count * PAGE_SIZE;
    let first = extents.partition_point(|extent| end_of(extent) <= start);
    let within = extents[first..].iter();
    let within = within.take_while(move |extent| extent.start < end);
    within.map(move |extent| {
        let from = extent.start.max(start);
        let to = end_of(extent).min(end);
        PageExtent {
            start: from,
            count: (to - from) / PAGE_SIZE,
            source: match extent.source {
                PageSource::File { file, offset } => PageSource::File {
                    file,
                    offset: offset + (from - extent.start),
                },
                other => other,
            },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, count: u64, source: PageSource) -> PageExtent {
        PageExtent {
            start,
            count,
            source,
        }
    }

    #[test]
    fn a_slice_keeps_its_place_in_the_file() {
        let file = |offset| PageSource::File { file: 0, offset };
        let all = [
            extent(0x1000, 4, file(0x8000)),
            extent(0x5000, 1, PageSource::Zero),
            extent(0x8000, 2, file(0)),
        ];
        let found: Vec<_> = slice(&all, 0x2000, 0x9000).collect();
        let expected = [
            extent(0x2000, 3, file(0x9000)),
            extent(0x5000, 1, PageSource::Zero),
            extent(0x8000, 1, file(0)),
        ];
        assert_eq!(found, expected);
        assert_eq!(slice(&all, 0x6000, 0x8000).count(), 0);
    }
}
