//! System V shared memory segments, as they are attached: whole, and by tasks of
//! this dump only. They have numbers, which programs keep.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;

use icecore_images::mm::Backing;
use icecore_images::pages::PAGE_SIZE;
use icecore_images::shmem::{ShmemKind, ShmemState};

use super::DumpContext;
use crate::blocker::Place;
use crate::error::DumpError;
use crate::kernel::process_memory::ProcessMemory;
use crate::kernel::sysv_shm;

/// How the name of what is mapped begins, before its key in hexadecimal.
pub(super) const NAME: &[u8] = b"/SYSV";

/// The segment behind a mapped file, whose inode number is the segment's;
/// `None` where it may not be looked at, or has huge pages.
pub(super) fn kind(name: &[u8], meta: &Metadata, huge: Option<u64>) -> Option<ShmemKind> {
    let digits = std::str::from_utf8(name.strip_prefix(NAME)?).ok()?;
    let key = u32::from_str_radix(digits, 16).ok()?;
    let shm_id = u32::try_from(meta.ino()).ok()?;
    let segment = sysv_shm::look(shm_id).ok()??;
    if huge.is_some() || segment.size != meta.size() {
        return None;
    }
    Some(ShmemKind::SysV {
        shm_id,
        key,
        mode: segment.mode,
        uid: segment.uid,
        gid: segment.gid,
        creator_uid: segment.creator_uid,
        creator_gid: segment.creator_gid,
        removed: segment.removed,
        locked: segment.locked,
    })
}

/// Notes segments of which only a part is mapped, or that others have too.
pub(super) fn check(ctx: &mut DumpContext<'_>) -> Result<(), DumpError> {
    let segments = ctx.tables.shmems.iter().filter_map(|object| {
        let ShmemKind::SysV { shm_id, .. } = object.kind else {
            return None;
        };
        Some((shm_id, object.clone()))
    });
    for (shm_id, object) in segments.collect::<Vec<_>>() {
        let failed = |source| DumpError::Read {
            pid: ctx.options.pid,
            what: format!("System V shared memory segment {shm_id}"),
            source,
        };
        let attachments = attachments(ctx, &object);
        let mut problems = Vec::new();
        for attachment in &attachments {
            let problem = attachment.problem(object.size).map_err(failed)?;
            problems.extend(problem.map(|problem| (attachment.place(), problem)));
        }
        let segment = sysv_shm::look(shm_id).map_err(failed)?;
        let all = segment.map_or(0, |segment| segment.attached);
        for (place, problem) in problems {
            ctx.block(place, problem.to_owned(), None);
        }
        if let Some(others) = all.checked_sub(attachments.len() as u64).filter(|n| *n > 0) {
            let problem = format!(
                "System V shared memory segment {shm_id} is attached {others} times outside the \
                 dump"
            );
            let help = "dump all processes that share it, or end the others";
            ctx.block(Place::Machine, problem, Some(help));
        }
    }
    Ok(())
}

/// An area that shows a segment.
struct Attachment {
    pid: u32,
    start: u64,
    end: u64,
    offset: u64,
}

fn attachments(ctx: &DumpContext<'_>, object: &ShmemState) -> Vec<Attachment> {
    let mut found = Vec::new();
    for mm in &ctx.tables.mms {
        let task = ctx.tables.tasks.iter().find(|task| task.mm == mm.id);
        let pid = task.map_or(ctx.options.pid, |task| task.pid);
        for vma in &mm.vmas {
            match vma.backing {
                Backing::Shmem { id, offset, .. } if id == object.id => found.push(Attachment {
                    pid,
                    start: vma.start,
                    end: vma.end,
                    offset,
                }),
                _ => {}
            }
        }
    }
    found
}

impl Attachment {
    fn place(&self) -> Place {
        Place::Area {
            pid: self.pid,
            start: self.start,
            end: self.end,
        }
    }

    /// What keeps it from being carried.
    fn problem(&self, size: u64) -> io::Result<Option<&'static str>> {
        if self.offset != 0 || self.end - self.start != size.next_multiple_of(PAGE_SIZE) {
            return Ok(Some(
                "a part of a System V shared memory segment: protected otherwise than the rest, \
                 or the rest is unmapped",
            ));
        }
        // No file reaches beyond the segment's size, but its last page does.
        let mut rest = vec![0; (size.next_multiple_of(PAGE_SIZE) - size) as usize];
        if !rest.is_empty() {
            ProcessMemory::open(self.pid)?.force_read(self.start + size, &mut rest)?;
        }
        Ok(rest
            .iter()
            .any(|byte| *byte != 0)
            .then_some("data behind the end of a System V shared memory segment, in its last page"))
    }
}
