//! System V shared memory segments of a whole tree: each task has its own
//! attachments, and all have one memory.

use std::sync::atomic::{AtomicU32, Ordering};

use super::family::{Relative, child};
use crate::harness::{Stage, Victim};
use crate::sys::{call, same};

pub(crate) fn victims() -> Vec<Victim> {
    vec![Victim::new("tree-sysv-shm", attached)]
}

const LEN: u64 = 3 << 12;
const REMOVE: u64 = libc::IPC_RMID as u64;

fn make(key: u32) -> Result<u64, String> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;
    call("shmget", libc::SYS_shmget, &[key.into(), LEN, flags as u64])
}

fn attach(id: u64, flags: i32) -> Result<&'static [AtomicU32], String> {
    let start = call("shmat", libc::SYS_shmat, &[id, 0, flags as u64])?;
    // SAFETY: a mapping of LEN bytes; whoever detaches it does not use it again,
    // and who may only read it only loads.
    Ok(unsafe { std::slice::from_raw_parts(start as *const AtomicU32, LEN as usize / 4) })
}

fn detach(words: &'static [AtomicU32]) -> Result<(), String> {
    call("shmdt", libc::SYS_shmdt, &[words.as_ptr() as u64]).map(drop)
}

fn attachments(id: u64) -> Result<u64, String> {
    // SAFETY: a buffer of zeros is valid.
    let mut stat: libc::shmid_ds = unsafe { std::mem::zeroed() };
    let buffer = std::ptr::from_mut(&mut stat) as u64;
    let args = [id, libc::IPC_STAT as u64, buffer];
    call("shmctl", libc::SYS_shmctl, &args)?;
    Ok(stat.shm_nattch)
}

/// One under a key that the parent, a child that inherited it and one that
/// attached it for reading have; and one that only this last child has, and that
/// goes with it.
fn attached(stage: &mut Stage) -> Result<(), String> {
    let key = std::process::id() | 0x2000_0000;
    let id = make(key)?;
    let words = attach(id, 0)?;
    let writer = child(move || {
        Ok(Box::new(move || {
            words[1500].fetch_add(1, Ordering::SeqCst);
            Ok(())
        }))
    })?;
    let reader = child(move || {
        detach(words)?;
        let seen = attach(id, libc::SHM_RDONLY)?;
        let own_id = make(libc::IPC_PRIVATE.cast_unsigned())?;
        let own = attach(own_id, 0)?;
        call("remove", libc::SYS_shmctl, &[own_id, REMOVE])?;
        let mut round = 0;
        Ok(Box::new(move || {
            round += 1;
            same("word", &seen[1500].load(Ordering::SeqCst), &round)?;
            same("own", &own[0].fetch_add(1, Ordering::SeqCst), &(round - 1))?;
            same("own attachments", &attachments(own_id)?, &1)
        }))
    })?;
    let mut relatives: [Relative; 2] = [writer, reader];
    let mut round = 0;
    while stage.next()? {
        relatives.iter_mut().try_for_each(Relative::check)?;
        round += 1;
        same("counter", &words[1500].load(Ordering::SeqCst), &round)?;
        same("attachments", &attachments(id)?, &3)?;
        let found = call("shmget", libc::SYS_shmget, &[key.into(), 0, 0])?;
        same("number", &found, &id)?;
    }
    call("remove", libc::SYS_shmctl, &[id, REMOVE]).map(drop)
}
