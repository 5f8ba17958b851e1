//! System V shared memory segments.

use super::area::{Area, PAGE, done, ensure};
use crate::harness::{Stage, Victim};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("sysv_shm", removed),
        Victim::new("sysv_shm_kept", kept),
        Victim::new("sysv_shm_twice", twice),
        Victim::refused("sysv_shm_part", "a part of a System V", part),
        Victim::refused("sysv_shm_behind", "data behind the end", behind),
    ]
}

const LEN: usize = 2 * PAGE;

fn segment(key: i32, size: usize) -> Result<i32, String> {
    // SAFETY: takes numbers.
    let id = unsafe { libc::shmget(key, size, libc::IPC_CREAT | libc::IPC_EXCL | 0o640) };
    ensure(id != -1, "no segment").map(|()| id)
}

fn attach(id: i32, flags: i32) -> Result<Area, String> {
    // SAFETY: at an address of the kernel's choice.
    let at = unsafe { libc::shmat(id, std::ptr::null(), flags) };
    ensure(at as isize != -1, "not attached")?;
    Ok(Area {
        at: at.cast(),
        len: LEN,
    })
}

fn detach(area: Area) -> Result<(), String> {
    // SAFETY: nothing points into it any more.
    done("detach", unsafe { libc::shmdt(area.at.cast()) })
}

fn remove(id: i32) -> Result<(), String> {
    // SAFETY: takes no buffer.
    let removed = unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    done("remove", removed)
}

fn look(id: i32) -> Result<libc::shmid_ds, String> {
    // SAFETY: a buffer of zeros is valid, and it is live.
    unsafe {
        let mut stat: libc::shmid_ds = std::mem::zeroed();
        let looked = libc::shmctl(id, libc::IPC_STAT, &raw mut stat);
        done("look at the segment", looked)?;
        Ok(stat)
    }
}

/// Goes with its last user.
fn removed(stage: &mut Stage) -> Result<(), String> {
    let id = segment(libc::IPC_PRIVATE, LEN - 100)?;
    let whole = attach(id, 0)?;
    remove(id)?;
    let area = whole.pages(0, 1);
    area.fill(1);
    while stage.next()? {
        area.check_all(1)?;
        let segment = look(id)?;
        ensure(
            segment.shm_perm.mode & 0o1777 == 0o1640,
            "the mode is another",
        )?;
        ensure(segment.shm_segsz == LEN - 100, "the size is another")?;
        ensure(segment.shm_nattch == 1, "others have it attached")?;
    }
    detach(whole)?;
    ensure(look(id).is_err(), "the segment is still there")
}

/// Stays without users, under its key.
fn kept(stage: &mut Stage) -> Result<(), String> {
    let key = std::process::id().cast_signed() | 0x4000_0000;
    let id = segment(key, LEN)?;
    let area = attach(id, 0)?;
    area.fill(3);
    while stage.next()? {
        area.check_all(3)?;
        // SAFETY: takes numbers.
        let found = unsafe { libc::shmget(key, LEN, 0) };
        ensure(found == id, "the key leads elsewhere")?;
        // A new attachment is of the same memory.
        let other = attach(id, 0)?;
        other.check_all(3)?;
        detach(other)?;
    }
    detach(area)?;
    ensure(look(id)?.shm_nattch == 0, "it is still attached")?;
    remove(id)
}

/// Attached for writing, for reading, and protected afterwards.
fn twice(stage: &mut Stage) -> Result<(), String> {
    let id = segment(libc::IPC_PRIVATE, LEN)?;
    let areas = [
        attach(id, 0)?,
        attach(id, libc::SHM_RDONLY)?,
        attach(id, 0)?,
    ];
    remove(id)?;
    // SAFETY: nobody writes through the last one.
    let protected = unsafe { libc::mprotect(areas[2].at.cast(), LEN, libc::PROT_READ) };
    done("protect", protected)?;
    let mut round = 0;
    areas[0].fill(round);
    while stage.next()? {
        areas.iter().try_for_each(|area| area.check_all(round))?;
        round += 1;
        areas[0].fill(round);
    }
    let [a, b, c] = areas;
    [a, b, c].into_iter().try_for_each(detach)
}

/// Its second page is gone.
fn part(stage: &mut Stage) -> Result<(), String> {
    let id = segment(libc::IPC_PRIVATE, LEN)?;
    let area = attach(id, 0)?;
    remove(id)?;
    // SAFETY: nothing points into it.
    let unmapped = unsafe { libc::munmap(area.pages(1, 1).at.cast(), PAGE) };
    done("unmap", unmapped)?;
    while stage.next()? {}
    Ok(())
}

/// The last page is used to its end.
fn behind(stage: &mut Stage) -> Result<(), String> {
    let id = segment(libc::IPC_PRIVATE, LEN - 100)?;
    let area = attach(id, 0)?;
    remove(id)?;
    area.fill(1);
    while stage.next()? {
        area.check_all(1)?;
    }
    detach(area)
}
