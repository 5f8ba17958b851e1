//! Page files and extents.

use super::numbers::{aligned, count, offset, refers, within};
use super::problem::{At, CheckError, Found, Object, Problem};
use crate::checkpoint::Checkpoint;
use crate::manifest::MAX_PAGE_FILES;
use crate::pages::{PAGE_SIZE, PageCodec, PageExtent, PageFile, PageSource};

/// Stored pages that extents may name in all, shared or not: 16 TiB.
const MAX_STORED: u64 = 1 << 32;

pub(super) fn check_files(image: &Checkpoint) -> Result<(), CheckError> {
    let files = &image.page_files;
    count("page files", files.len(), 0..=MAX_PAGE_FILES).at(Object::Image)?;
    within("stored pages", stored_pages(image), 0..=MAX_STORED).at(Object::Image)?;
    for (n, file) in files.iter().enumerate() {
        page_file(file).at(Object::PageFile(n))?;
    }
    Ok(())
}

/// Extents may share stored pages, so that a small image can name many.
fn stored_pages(image: &Checkpoint) -> u64 {
    let memory = image.mms.iter().flat_map(|mm| &mm.pages);
    let objects = image.shmems.iter().flat_map(|shmem| &shmem.pages);
    let ghosts = image.ghosts.iter().flat_map(|ghost| &ghost.pages);
    memory
        .chain(objects)
        .chain(ghosts)
        .filter(|extent| matches!(extent.source, PageSource::File { .. }))
        .fold(0, |sum, extent| sum.saturating_add(extent.count))
}

fn page_file(file: &PageFile) -> Found {
    let PageCodec::Raw = file.codec;
    offset("length", file.length)?;
    aligned("length", file.length, PAGE_SIZE)?;
    if PageFile::chunk_count(file.length) != file.chunks.len() as u64 {
        return Err(Problem::Contradiction(
            "its length asks for another number of chunk checksums",
        ));
    }
    Ok(())
}

/// Extents in order, each with its contents in a page file.
pub(super) fn extents(extents: &[PageExtent], files: &[PageFile]) -> Found {
    let mut free = 0;
    for extent in extents {
        let end = end(extent)?;
        aligned("page extent", extent.start, PAGE_SIZE)?;
        if extent.start < free {
            let (what, value) = ("page extent", extent.start);
            return Err(Problem::Order { what, value });
        }
        free = end;
        source(extent, files)?;
    }
    Ok(())
}

/// First address or offset after an extent.
pub(super) fn end(extent: &PageExtent) -> Result<u64, Problem> {
    let most = u64::MAX / PAGE_SIZE;
    within("pages of an extent", extent.count, 1..=most)?;
    extent
        .start
        .checked_add(extent.count * PAGE_SIZE)
        .ok_or(Problem::Outside {
            what: "page extent",
            start: extent.start,
            end: u64::MAX,
            within: "the last address",
        })
}

fn source(extent: &PageExtent, files: &[PageFile]) -> Found {
    let PageSource::File { file, offset } = extent.source else {
        return match extent.source {
            PageSource::Parent => Err(Problem::NoParent),
            _ => Ok(()),
        };
    };
    refers("page file", file, files.len())?;
    aligned("offset in the page file", offset, PAGE_SIZE)?;
    let length = files.get(file as usize).map_or(0, |f| f.length);
    let end = offset.checked_add(extent.count * PAGE_SIZE);
    match end {
        Some(end) if end <= length => Ok(()),
        _ => Err(Problem::Outside {
            what: "stored pages",
            start: offset,
            end: end.unwrap_or(u64::MAX),
            within: "the page file",
        }),
    }
}

/// Extents of an object of this size: they end at its last page.
pub(super) fn extents_of(size: u64, all: &[PageExtent], files: &[PageFile]) -> Found {
    extents(all, files)?;
    let Some(last) = all.last() else {
        return Ok(());
    };
    let end = end(last)?;
    match end <= size.next_multiple_of(PAGE_SIZE) {
        true => Ok(()),
        false => Err(Problem::Outside {
            what: "page extent",
            start: last.start,
            end,
            within: "the object",
        }),
    }
}
