//! Shared anonymous memory and memfds.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use super::area::{Area, PAGE, RW, SHARED, done, ensure};
use crate::harness::{Stage, Victim};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("shm_anon", shm_anon),
        Victim::new("memfd_map", memfd_map),
        Victim::new("memfd_seals", memfd_seals),
    ]
}

const READ: i32 = libc::PROT_READ;

pub(super) fn memfd(name: &str, flags: u32, pages: usize) -> Result<File, String> {
    let c_name = CString::new(name).map_err(|e| e.to_string())?;
    // SAFETY: a C string in, a new descriptor out.
    let fd = unsafe { libc::memfd_create(c_name.as_ptr(), libc::MFD_CLOEXEC | flags) };
    if fd < 0 {
        return Err(format!("memfd_create: {}", std::io::Error::last_os_error()));
    }
    // SAFETY: the descriptor is new and nobody else's.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len((pages * PAGE) as u64)
        .map_err(|e| e.to_string())?;
    Ok(file)
}

/// One object mapped twice stays one; its holes stay holes.
fn shm_anon(stage: &mut Stage) -> Result<(), String> {
    let area = Area::new(600, RW, SHARED)?;
    // SAFETY: an old size of zero makes a second mapping of a shared object.
    let again = unsafe { libc::mremap(area.at.cast(), 0, 600 * PAGE, libc::MREMAP_MAYMOVE) };
    ensure(again != libc::MAP_FAILED, "no second mapping")?;
    let again = Area {
        at: again.cast(),
        len: area.len,
    };
    let hidden = Area::new(3, RW, SHARED)?;
    hidden.fill(77);
    hidden.protect(libc::PROT_NONE)?;
    let mut seed = 1;
    for page in (0..600).step_by(7) {
        area.write(page, seed);
    }
    while stage.next()? {
        for page in (0..600).step_by(7) {
            again.check(page, seed)?;
        }
        area.check_zero(1)?;
        hidden.protect(READ)?;
        hidden.check_all(77)?;
        hidden.protect(libc::PROT_NONE)?;
        seed += 1;
        for page in (0..600).step_by(7) {
            again.write(page, seed);
        }
        area.check(7, seed)?;
    }
    Ok(())
}

/// A memfd mapped shared, for reading only and privately, open beside, and
/// one that is only mapped.
fn memfd_map(stage: &mut Stage) -> Result<(), String> {
    let file = memfd("a name with \u{1f9ca}", 0, 40)?;
    let shared = Area::of_file(file.as_fd(), 0, 40, RW, libc::MAP_SHARED)?;
    let private = Area::of_file(file.as_fd(), 8 * PAGE, 8, RW, libc::MAP_PRIVATE)?;
    let closed = memfd("closed", 0, 4)?;
    let only_mapped = Area::of_file(closed.as_fd(), 0, 4, RW, libc::MAP_SHARED)?;
    drop(closed);
    only_mapped.fill(50);
    private.write(1, 51);
    let mut seed = 60;
    shared.write(20, seed);
    file.write_all_at(&[3; 100], 10 * PAGE as u64)
        .map_err(|e| e.to_string())?;
    while stage.next()? {
        only_mapped.check_all(50)?;
        private.check(1, 51)?;
        shared.check(20, seed)?;
        ensure(
            private.read(2) == shared.read(10),
            "private and shared differ",
        )?;
        seed += 1;
        shared.write(20, seed);
        let mut word = [0; 8];
        file.read_exact_at(&mut word, 20 * PAGE as u64)
            .map_err(|e| e.to_string())?;
        let same = u64::from_ne_bytes(word) == shared.read(20)[0];
        ensure(same, "the descriptor is another object's")?;
    }
    Ok(())
}

/// Seals, with the mappings they allow: a sealed object read-only, one that is
/// sealed against future writers with a writer it has had before.
fn memfd_seals(stage: &mut Stage) -> Result<(), String> {
    let sealed = memfd("sealed", libc::MFD_ALLOW_SEALING, 4)?;
    sealed
        .write_all_at(&[7; 4 * PAGE], 0)
        .map_err(|e| e.to_string())?;
    let all = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    seal(&sealed, all)?;
    let sealed_map = Area::of_file(sealed.as_fd(), 0, 4, READ, libc::MAP_SHARED)?;
    let future = memfd("future", libc::MFD_ALLOW_SEALING, 4)?;
    let writer = Area::of_file(future.as_fd(), 0, 4, RW, libc::MAP_SHARED)?;
    seal(&future, libc::F_SEAL_FUTURE_WRITE)?;
    let mut seed = 5;
    writer.fill(seed);
    while stage.next()? {
        let seven = u64::from_ne_bytes([7; 8]);
        ensure(sealed_map.read(3)[511] == seven, "a sealed page changed")?;
        ensure(
            sealed_map.protect(RW).is_err(),
            "a sealed mapping became writable",
        )?;
        ensure(seals(&sealed) == all, "the seals are others")?;
        ensure(
            sealed.write_at(&[1], 0).is_err(),
            "a sealed memfd was written",
        )?;
        ensure(
            seals(&future) == libc::F_SEAL_FUTURE_WRITE,
            "the seal is another",
        )?;
        ensure(
            future.write_at(&[1], 0).is_err(),
            "future writes are not sealed",
        )?;
        writer.check_all(seed)?;
        seed += 1;
        writer.fill(seed);
    }
    Ok(())
}

fn seal(file: &File, seals: i32) -> Result<(), String> {
    // SAFETY: fcntl with a number.
    done("F_ADD_SEALS", unsafe {
        libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals)
    })
}

fn seals(file: &File) -> i32 {
    // SAFETY: fcntl without an argument.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) }
}
