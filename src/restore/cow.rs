//! Memory that a task still has in common with the one it was forked from: it is
//! had again by forking from the filled memory of that one, and changing what is
//! different.

use std::ops::Range;

use icecore_images::mm::{Backing, MmState, Vma};
use icecore_images::pages::{PAGE_SIZE, PageExtent, PageSource};

use super::RestoreContext;
use super::memory::comes_back_empty;
use crate::tracer::Script;

/// What a process that was forked from another keeps of its memory.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    /// Areas that stay, in order.
    areas: Vec<(u64, u64)>,
    /// Pages in them that the task does not have.
    foreign: Vec<PageExtent>,
    /// What is to be filled in: all that is not there already.
    pub(super) missing: Vec<PageExtent>,
    /// It runs the other's program.
    pub(super) same_program: bool,
}

/// Whether two address spaces have stored pages in common.
pub(super) fn have_common_pages(a: &MmState, b: &MmState) -> bool {
    let bytes = |pages: &[PageExtent]| pages.iter().map(|e| e.count).sum::<u64>();
    bytes(&without(&a.pages, &b.pages, same_bytes)) < bytes(&a.pages)
}

impl Inherited {
    /// Nothing: everything is mapped and filled in.
    pub(super) fn nothing(mm: &MmState) -> Self {
        Self {
            missing: mm.pages.clone(),
            ..Self::default()
        }
    }

    /// What is kept of memory `of` for memory `mm`.
    pub(super) fn between(ctx: &RestoreContext<'_>, of: &MmState, mm: &MmState) -> Self {
        let stays = |vma: &&Vma| {
            let there = of.vmas.binary_search_by_key(&vma.start, |v| v.start);
            is_forked(vma)
                && !comes_back_empty(ctx, vma)
                && there.is_ok_and(|there| &of.vmas[there] == *vma)
        };
        let kept: Vec<&Vma> = mm.vmas.iter().filter(stays).collect();
        let range = |vma: &&Vma| covering(vma.start, vma.end);
        let all: Vec<PageExtent> = kept.iter().map(range).collect();
        // Untouched anonymous memory is zero; there a page of zeros is none.
        let anonymous = kept.iter().filter(|vma| vma.backing == Backing::Anonymous);
        let anonymous: Vec<PageExtent> = anonymous.map(range).collect();
        let zeros = |page: &PageExtent, _: &PageExtent| page.source == PageSource::Zero;
        let ours = without(&mm.pages, &anonymous, zeros);
        let theirs = within(&of.pages, &all);
        Self {
            foreign: without(&theirs, &ours, |_, _| true),
            missing: without(&ours, &theirs, same_bytes),
            areas: kept.iter().map(|vma| (vma.start, vma.end)).collect(),
            same_program: of.exe == mm.exe,
        }
    }

    /// Whether an area is there already.
    pub(super) fn has(&self, vma: &Vma) -> bool {
        let found = self.areas.binary_search(&(vma.start, vma.end));
        found.is_ok()
    }

    /// What stays mapped.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        self.areas.iter().map(|&(start, end)| start..end)
    }

    /// Throws out what is not the task's; by scripts small enough for any
    /// room.
    pub(super) fn forget(&self) -> impl Iterator<Item = Script> {
        self.foreign.chunks(AT_ONCE).map(|extents| {
            let mut script = Script::new();
            for extent in extents {
                let len = extent.count * PAGE_SIZE;
                let args = [extent.start, len, libc::MADV_DONTNEED as u64];
                script.call("drop inherited pages", libc::SYS_madvise as u32, args);
            }
            script
        })
    }
}

/// Calls in a script that fits beside any other.
const AT_ONCE: usize = 32;

/// Whether a child has a copy of the area when it is forked.
fn is_forked(vma: &Vma) -> bool {
    let flags = &vma.flags;
    let private = matches!(vma.backing, Backing::Anonymous | Backing::File { .. }) && !vma.shared;
    private && !flags.dont_fork && !flags.wipe_on_fork && !flags.droppable
}

fn covering(start: u64, end: u64) -> PageExtent {
    PageExtent {
        start,
        count: (end - start) / PAGE_SIZE,
        source: PageSource::Zero,
    }
}

fn end(extent: &PageExtent) -> u64 {
    extent.start + extent.count * PAGE_SIZE
}

/// Whether two extents have the same bytes of the same file where they overlap.
fn same_bytes(a: &PageExtent, b: &PageExtent) -> bool {
    match (a.source, b.source) {
        (
            PageSource::File { file, offset },
            PageSource::File {
                file: other,
                offset: other_offset,
            },
        ) => file == other && offset.wrapping_sub(a.start) == other_offset.wrapping_sub(b.start),
        _ => false,
    }
}

/// A part of an extent.
fn part(extent: &PageExtent, start: u64, end: u64) -> PageExtent {
    let source = match extent.source {
        PageSource::File { file, offset } => PageSource::File {
            file,
            offset: offset + (start - extent.start),
        },
        other => other,
    };
    PageExtent {
        source,
        ..covering(start, end)
    }
}

/// What of `pages` is not covered by one of `others` that `removes` it. Both are
/// sorted and without overlap.
fn without(
    pages: &[PageExtent],
    others: &[PageExtent],
    removes: impl Fn(&PageExtent, &PageExtent) -> bool,
) -> Vec<PageExtent> {
    let (mut rest, mut first) = (Vec::new(), 0);
    for page in pages {
        while others.get(first).is_some_and(|o| end(o) <= page.start) {
            first += 1;
        }
        let mut from = page.start;
        let over = others[first..].iter();
        for other in over.take_while(|o| o.start < end(page)) {
            if !removes(page, other) {
                continue;
            }
            if other.start > from {
                rest.push(part(page, from, other.start));
            }
            from = end(other).min(end(page));
        }
        if from < end(page) {
            rest.push(part(page, from, end(page)));
        }
    }
    rest
}

/// What of `pages` lies in `areas`.
fn within(pages: &[PageExtent], areas: &[PageExtent]) -> Vec<PageExtent> {
    let outside = without(pages, areas, |_, _| true);
    without(pages, &outside, |_, _| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(start: u64, count: u64, offset: u64) -> PageExtent {
        PageExtent {
            start: start * PAGE_SIZE,
            count,
            source: PageSource::File {
                file: 0,
                offset: offset * PAGE_SIZE,
            },
        }
    }

    #[test]
    fn the_same_bytes_are_not_missing() {
        let ours = [stored(10, 4, 100), stored(20, 1, 50)];
        let theirs = [stored(8, 4, 98), stored(13, 9, 300)];
        let missing = without(&ours, &theirs, same_bytes);
        assert_eq!(missing, [stored(12, 2, 102), stored(20, 1, 50)]);
        let foreign = without(&theirs, &ours, |_, _| true);
        let expected = [stored(8, 2, 98), stored(14, 6, 301), stored(21, 1, 308)];
        assert_eq!(foreign, expected);
    }

    #[test]
    fn what_lies_in_areas_is_cut_at_their_borders() {
        let areas = [covering(4 * PAGE_SIZE, 6 * PAGE_SIZE)];
        assert_eq!(within(&[stored(0, 10, 0)], &areas), [stored(4, 2, 4)]);
        assert_eq!(within(&[stored(0, 3, 0)], &areas), []);
    }

    #[test]
    fn pages_of_different_files_are_different() {
        let mut other = stored(10, 4, 100);
        other.source = PageSource::File {
            file: 1,
            offset: 100 * PAGE_SIZE,
        };
        assert!(!same_bytes(&stored(10, 4, 100), &other));
    }
}
