//! Shared memory objects, made and filled in the root of the restore. Whoever
//! maps or opens one gets at it from here.

use std::fs::File;
use std::os::fd::OwnedFd;

use icecore_images::Checkpoint;
use icecore_images::ids::ShmemId;
use icecore_images::mm::Backing;
use icecore_images::shmem::{ShmemKind, ShmemState};
use rustix::fs::{Gid, Mode, OFlags, SealFlags, Uid};
use rustix::io::Errno;

use super::RestoreContext;
use super::ghost;
use super::pages::{self, Sink};
use super::sysv_shm::Segments;
use crate::error::RestoreError;
use crate::kernel::shared_memory::{self, Window};

/// The shared memory objects of a restore, open for reading and writing.
#[derive(Debug, Default)]
pub(crate) struct Shmems {
    files: Vec<File>,
    segments: Segments,
}

impl Shmems {
    /// A new open file description of object `id`.
    pub(crate) fn reopen(&self, id: ShmemId, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let file = self.files.get(id.0 as usize).ok_or(Errno::NOENT)?;
        ghost::reopen(file, flags)
    }

    /// From now on everything is there to stay.
    pub(super) fn settle(&mut self) -> Result<(), RestoreError> {
        let settled = self.segments.settle();
        settled.map_err(|source| RestoreError::Rebuild {
            what: "System V shared memory: tell the guardian".to_owned(),
            source,
        })
    }
}

/// Makes and fills all objects of the image.
pub(super) fn create_all(ctx: &mut RestoreContext<'_>) -> Result<Shmems, RestoreError> {
    let mut files = Vec::with_capacity(ctx.image.shmems.len());
    let mut segments = Segments::default();
    for state in &ctx.image.shmems {
        let file = match state.kind {
            ShmemKind::SysV { .. } => segments.open(state),
            _ => create(state, is_unreserved(ctx.image, state.id)),
        };
        let file = file.map_err(failed(state))?;
        fill(ctx, state, &file)?;
        files.push(file);
    }
    Ok(Shmems { files, segments })
}

fn failed(state: &ShmemState) -> impl FnOnce(std::io::Error) -> RestoreError + use<> {
    let id = state.id;
    let what = match &state.kind {
        ShmemKind::MemFd { name, .. } => format!("memfd {name}"),
        ShmemKind::SysV { shm_id, .. } => format!("System V shared memory segment {shm_id}"),
        _ => format!("shared memory object {id}"),
    };
    move |source| RestoreError::Rebuild { what, source }
}

/// Whether the object was made without counting as committed memory.
fn is_unreserved(image: &Checkpoint, object: ShmemId) -> bool {
    let mut areas = image.mms.iter().flat_map(|mm| &mm.vmas);
    areas.any(|vma| {
        vma.flags.no_reserve && matches!(&vma.backing, Backing::Shmem { id, .. } if *id == object)
    })
}

fn create(state: &ShmemState, no_reserve: bool) -> std::io::Result<File> {
    match &state.kind {
        ShmemKind::SysV { .. } => Err(Errno::INVAL.into()),
        ShmemKind::Anonymous => shared_memory::shared_anonymous(state.size, None, no_reserve),
        ShmemKind::AnonymousHuge { page_size } => {
            shared_memory::shared_anonymous(state.size, Some(*page_size), no_reserve)
        }
        ShmemKind::MemFd {
            name,
            huge_page_size,
            mode,
            uid,
            gid,
            ..
        } => {
            let huge = (*huge_page_size != 0).then_some(*huge_page_size);
            let fd = shared_memory::create_memfd(&name.0, huge)?;
            rustix::fs::fchown(&fd, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)))?;
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(*mode))?;
            let file = File::from(fd);
            file.set_len(state.size)?;
            Ok(file)
        }
    }
}

fn fill(ctx: &mut RestoreContext<'_>, state: &ShmemState, file: &File) -> Result<(), RestoreError> {
    if state.pages.is_empty() {
        return Ok(());
    }
    let window;
    let sink = match shared_memory::huge_page_size(file).map_err(failed(state))? {
        None => Sink::File(file, state.size),
        Some(_) => {
            window = Window::open(file, state.size).map_err(failed(state))?;
            Sink::Window(&window)
        }
    };
    pages::fill(ctx, &sink, &state.pages, "shared memory")
}

/// Puts the seals on, once everything that may write has been mapped.
pub(super) fn seal(ctx: &RestoreContext<'_>, shmems: &Shmems) -> Result<(), RestoreError> {
    for (state, file) in ctx.image.shmems.iter().zip(&shmems.files) {
        let ShmemKind::MemFd { seals, .. } = state.kind else {
            continue;
        };
        let seals = SealFlags::from_bits_retain(seals);
        add_missing_seals(file, seals).map_err(|e| failed(state)(e.into()))?;
    }
    Ok(())
}

/// A mapping may have needed them before.
fn add_missing_seals(file: &File, seals: SealFlags) -> rustix::io::Result<()> {
    match rustix::fs::fcntl_get_seals(file)? == seals {
        true => Ok(()),
        false => rustix::fs::fcntl_add_seals(file, seals),
    }
}
