//! Small tables: deleted files, shared memory objects, pipes, seccomp filters,
//! fs structs.

use super::files::{DIRECTORY, FIFO, REGULAR, file_ref, file_type};
use super::numbers::{bits, count, huge_page_size, id, offset, owners, path, text};
use super::pages::extents_of;
use super::problem::{At, CheckError, Found, Object, Problem};
use crate::checkpoint::Checkpoint;
use crate::files::FsState;
use crate::pages::PAGE_SIZE;
use crate::pipe::PipeState;
use crate::regular::GhostFile;
use crate::shmem::{ShmemKind, ShmemState};

pub(super) fn check_ghosts(image: &Checkpoint) -> Result<(), CheckError> {
    for (place, ghost) in image.ghosts.iter().enumerate() {
        let object = Object::Ghost(ghost.id.0);
        id(ghost.id.0, place).at(object)?;
        ghost_file(image, ghost).at(object)?;
    }
    Ok(())
}

fn ghost_file(image: &Checkpoint, ghost: &GhostFile) -> Found {
    path("its last name", &ghost.path)?;
    file_type("a deleted file", ghost.mode, &[REGULAR, DIRECTORY, FIFO])?;
    owners(&[ghost.uid, ghost.gid])?;
    offset("size", ghost.size)?;
    count("extended attributes", ghost.xattrs.len(), 0..=4096)?;
    for (name, value) in &ghost.xattrs {
        text("name of an extended attribute", name, 255)?;
        count("bytes of an extended attribute", value.0.len(), 0..=1 << 16)?;
    }
    extents_of(ghost.size, &ghost.pages, &image.page_files)
}

pub(super) fn check_shmems(image: &Checkpoint) -> Result<(), CheckError> {
    for (place, shmem) in image.shmems.iter().enumerate() {
        let object = Object::Shmem(shmem.id.0);
        id(shmem.id.0, place).at(object)?;
        shmem_object(image, shmem).at(object)?;
    }
    Ok(())
}

fn shmem_object(image: &Checkpoint, shmem: &ShmemState) -> Found {
    offset("size", shmem.size)?;
    match &shmem.kind {
        ShmemKind::Anonymous => {}
        ShmemKind::AnonymousHuge { page_size } => huge_page_size(*page_size)?,
        ShmemKind::MemFd {
            name,
            seals,
            huge_page_size: huge,
            mode,
            uid,
            gid,
        } => {
            owners(&[*uid, *gid])?;
            // NAME_MAX less "memfd:".
            text("name", name, 249)?;
            bits("seals", u64::from(*seals), 0x3f)?;
            bits("mode", u64::from(*mode), 0o7777)?;
            if *huge != 0 {
                huge_page_size(*huge)?;
            }
        }
        ShmemKind::SysV {
            shm_id,
            mode,
            uid,
            gid,
            creator_uid,
            creator_gid,
            ..
        } => {
            owners(&[*uid, *gid, *creator_uid, *creator_gid])?;
            bits("number of a segment", u64::from(*shm_id), 0x7fff_ffff)?;
            bits("mode", u64::from(*mode), 0o777)?;
        }
    }
    extents_of(shmem.size, &shmem.pages, &image.page_files)
}

pub(super) fn check_pipes(image: &Checkpoint) -> Result<(), CheckError> {
    for (place, pipe) in image.pipes.iter().enumerate() {
        let object = Object::Pipe(pipe.id.0);
        id(pipe.id.0, place).at(object)?;
        one_pipe(image, pipe).at(object)?;
    }
    Ok(())
}

fn one_pipe(image: &Checkpoint, pipe: &PipeState) -> Found {
    if let Some(fifo) = &pipe.fifo {
        file_ref(image, "a FIFO", fifo, &[FIFO])?;
    }
    owners(&[pipe.uid, pipe.gid])?;
    let capacity = u64::from(pipe.capacity);
    if !capacity.is_power_of_two() || capacity < PAGE_SIZE {
        let (what, value) = ("capacity", capacity);
        return Err(Problem::Unknown { what, value });
    }
    let queued: u64 = pipe
        .queue
        .iter()
        .map(|part| part.bytes.0.len() as u64)
        .sum();
    if queued > capacity {
        return Err(Problem::Outside {
            what: "queued bytes",
            start: 0,
            end: queued,
            within: "the pipe's capacity",
        });
    }
    // Every element takes a page of the pipe, an empty one none and makes no
    // sense.
    let slots = (capacity / PAGE_SIZE) as usize;
    count("queued elements", pipe.queue.len(), 0..=slots)?;
    match pipe.queue.iter().any(|part| part.bytes.0.is_empty()) {
        true => Err(Problem::Contradiction("an empty element is queued")),
        false => Ok(()),
    }
}

pub(super) fn check_seccomp_filters(image: &Checkpoint) -> Result<(), CheckError> {
    for (place, filter) in image.seccomp_filters.iter().enumerate() {
        let object = Object::SeccompFilter(filter.id.0);
        id(filter.id.0, place).at(object)?;
        // BPF_MAXINSNS.
        count("instructions", filter.program.len(), 1..=4096).at(object)?;
    }
    Ok(())
}

pub(super) fn check_fs(image: &Checkpoint) -> Result<(), CheckError> {
    for (place, fs) in image.fs.iter().enumerate() {
        let object = Object::Fs(fs.id.0);
        id(fs.id.0, place).at(object)?;
        fs_struct(image, fs).at(object)?;
    }
    Ok(())
}

fn fs_struct(image: &Checkpoint, fs: &FsState) -> Found {
    file_ref(image, "the working directory", &fs.cwd, &[DIRECTORY])?;
    file_ref(image, "the root directory", &fs.root, &[DIRECTORY])?;
    bits("umask", u64::from(fs.umask), 0o777)
}
