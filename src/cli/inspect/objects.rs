//! Files and memory that the image carries because nothing else does.

use std::fmt::Write as _;

use icecore_images::Checkpoint;
use icecore_images::pages::{PAGE_SIZE, PageExtent, PageSource};
use icecore_images::shmem::ShmemKind;
use indicatif::BinaryBytes;

use super::table::Table;

/// Shows deleted files and shared memory objects, if there are any. Writing to
/// a string cannot fail.
pub(super) fn show(out: &mut String, image: &Checkpoint) {
    if image.ghosts.is_empty() && image.shmems.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nCARRIED IN THE IMAGE");
    let mut table = Table::new(["what", "size", "stored"], &[1, 2]);
    for ghost in &image.ghosts {
        table.row([
            format!("deleted file {}", ghost.path),
            BinaryBytes(ghost.size).to_string(),
            BinaryBytes(stored(&ghost.pages)).to_string(),
        ]);
    }
    for shmem in &image.shmems {
        let what = match &shmem.kind {
            ShmemKind::Anonymous => format!("shared memory {}", shmem.id),
            ShmemKind::AnonymousHuge { page_size } => {
                let size = BinaryBytes(*page_size);
                format!("shared memory {} in huge pages of {size}", shmem.id)
            }
            ShmemKind::SysV { shm_id, key, .. } => {
                format!("System V segment {shm_id} (key {key:#x})")
            }
            ShmemKind::MemFd { name, .. } => format!("memfd {}", name),
        };
        table.row([
            what,
            BinaryBytes(shmem.size).to_string(),
            BinaryBytes(stored(&shmem.pages)).to_string(),
        ]);
    }
    table.write(out);
}

fn stored(pages: &[PageExtent]) -> u64 {
    let in_files = pages
        .iter()
        .filter(|extent| matches!(extent.source, PageSource::File { .. }));
    in_files.map(|extent| extent.count * PAGE_SIZE).sum()
}
