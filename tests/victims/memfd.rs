//! memfd_create(2).

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::fs::{OFlags, SeekFrom};

use crate::harness::{Stage, Victim};
use crate::regular::{open_at, text};
use crate::sys::{call, same};

pub(crate) fn victims() -> Vec<Victim> {
    vec![Victim::new("memfd", memfd)]
}

fn seals(fd: impl AsFd) -> Result<SealFlags, String> {
    fcntl_get_seals(fd).map_err(text("F_GET_SEALS"))
}

/// Sealed; open twice at different offsets; open and mapped at once.
fn memfd(stage: &mut Stage) -> Result<(), String> {
    let make = |name: &str| {
        memfd_create(name, MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC)
            .map(File::from)
            .map_err(text("memfd_create"))
    };
    let sealed = make("sealed")?;
    sealed
        .write_all_at(b"for ever", 4096)
        .map_err(text("write"))?;
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&sealed, all).map_err(text("F_ADD_SEALS"))?;
    let shared = make("name with (deleted)")?;
    shared.set_len(8192).map_err(text("truncate"))?;
    rustix::fs::seek(&shared, SeekFrom::Start(100)).map_err(text("seek"))?;
    use std::os::fd::AsRawFd;
    let again = format!("/proc/self/fd/{}", shared.as_raw_fd());
    let again = File::from(open_at(again.as_ref(), OFlags::RDONLY)?);
    let rw = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    let args = [
        0,
        8192,
        rw,
        libc::MAP_SHARED as u64,
        shared.as_raw_fd() as u64,
        0,
    ];
    let mapped = call("mmap", libc::SYS_mmap, &args)? as *mut u64;
    let mut rounds = 0_u64;
    while stage.next()? {
        same("seals", &seals(&sealed)?, &all)?;
        let mut bytes = [0; 8];
        sealed
            .read_exact_at(&mut bytes, 4096)
            .map_err(text("read"))?;
        same("contents", &&bytes, &b"for ever")?;
        same("writing", &sealed.write_at(b"x", 0).is_err(), &true)?;
        let inodes = [&shared, &again].map(|f| f.metadata().map(|m| m.ino()).unwrap_or(0));
        same("inode", &inodes[0], &inodes[1])?;
        let at = rustix::fs::tell(&shared).map_err(text("tell"))?;
        same("position", &at, &100)?;
        // What is written into the mapping is read from the file.
        again
            .read_exact_at(&mut bytes, 4096)
            .map_err(text("read"))?;
        same("contents", &u64::from_ne_bytes(bytes), &rounds)?;
        rounds += 1;
        // SAFETY: the mapping above has two pages, and nobody else writes it.
        unsafe { mapped.add(512).write_volatile(rounds) };
        again
            .read_exact_at(&mut bytes, 4096)
            .map_err(text("read"))?;
        same("contents", &u64::from_ne_bytes(bytes), &rounds)?;
    }
    Ok(())
}
