//! What an area can be marked with.

use super::area::{Area, PRIVATE, RW, done, ensure, own_flags, syscall};
use crate::harness::{Stage, Victim};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("madvise", madvise),
        Victim::new("guard", guard),
        Victim::new("mlock", mlock),
        Victim::new("numa", numa),
        Victim::new("mseal", mseal),
        Victim::new("wipe_on_fork", wipe_on_fork),
    ]
}

/// Every advice that is kept.
fn madvise(stage: &mut Stage) -> Result<(), String> {
    let advice = [
        (libc::MADV_DONTFORK, " dc"),
        (libc::MADV_WIPEONFORK, " wf"),
        (libc::MADV_DONTDUMP, " dd"),
        (libc::MADV_SEQUENTIAL, " sr"),
        (libc::MADV_RANDOM, " rr"),
        (libc::MADV_HUGEPAGE, " hg"),
        (libc::MADV_NOHUGEPAGE, " nh"),
        (libc::MADV_MERGEABLE, " mg"),
    ];
    let area = Area::new(4 * advice.len(), RW, PRIVATE)?;
    area.fill(1);
    for (i, (advice, _)) in advice.into_iter().enumerate() {
        area.pages(4 * i, 3).advise(advice)?;
    }
    while stage.next()? {
        area.check_all(1)?;
        for (i, (_, flag)) in advice.into_iter().enumerate() {
            let flags = own_flags(area.pages(4 * i, 3).start())?;
            ensure(flags.contains(flag), &format!("no {flag} in {flags}"))?;
        }
    }
    Ok(())
}

/// Guard pages between pages with contents.
fn guard(stage: &mut Stage) -> Result<(), String> {
    const MADV_GUARD_INSTALL: i32 = 102;
    const MADV_GUARD_REMOVE: i32 = 103;
    let area = Area::new(20, RW, PRIVATE)?;
    area.fill(1);
    let guarded = [area.pages(4, 2), area.pages(7, 1), area.pages(19, 1)];
    for part in guarded {
        part.advise(MADV_GUARD_INSTALL)?;
    }
    while stage.next()? {
        for part in guarded {
            ensure(faults(&part), "a guard page can be read")?;
        }
        for page in [0, 3, 6, 8, 18] {
            area.check(page, 1)?;
        }
        // A guard page is still one that can be removed and put back.
        guarded[1].advise(MADV_GUARD_REMOVE)?;
        area.check_zero(7)?;
        guarded[1].advise(MADV_GUARD_INSTALL)?;
    }
    Ok(())
}

/// Whether the kernel faults when it writes there for us.
fn faults(area: &Area) -> bool {
    let nr = libc::SYS_getcpu;
    syscall("getcpu", nr, [area.start(), 0, 0, 0, 0]).is_err()
}

/// Locked areas, areas locked on fault, and everything to come.
fn mlock(stage: &mut Stage) -> Result<(), String> {
    let area = Area::new(30, RW, PRIVATE)?;
    let locked = area.pages(0, 5);
    let on_fault = area.pages(10, 5);
    // SAFETY: locking changes no contents.
    done("mlock", unsafe {
        libc::mlock(locked.at.cast(), locked.len)
    })?;
    let args = [on_fault.start(), on_fault.len as u64, 1, 0, 0];
    syscall("mlock2", libc::SYS_mlock2, args)?;
    on_fault.write(2, 1);
    locked.fill(2);
    let future = libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: as above.
    done("mlockall", unsafe { libc::mlockall(future) })?;
    while stage.next()? {
        on_fault.check(2, 1)?;
        locked.check_all(2)?;
        ensure(
            locked.is_locked() && on_fault.is_locked(),
            "no longer locked",
        )?;
        ensure(!area.pages(20, 1).is_locked(), "locked without being asked")?;
        let new = Area::new(2, RW, PRIVATE)?;
        let flags = own_flags(new.start())?;
        let kept = flags.contains(" lo") && flags.contains(" lf");
        // SAFETY: the area is unused.
        done("munmap", unsafe { libc::munmap(new.at.cast(), new.len) })?;
        ensure(kept, "new areas are not locked on fault")?;
    }
    Ok(())
}

/// A memory policy of an area.
fn numa(stage: &mut Stage) -> Result<(), String> {
    const MPOL_BIND: u64 = 2;
    const MPOL_F_STATIC_NODES: u64 = 1 << 15;
    let area = Area::new(8, RW, PRIVATE)?;
    let part = area.pages(2, 3);
    let nodes = [1_u64];
    let mode = MPOL_BIND | MPOL_F_STATIC_NODES;
    let args = [
        part.start(),
        part.len as u64,
        mode,
        nodes.as_ptr() as u64,
        64,
    ];
    syscall("mbind", libc::SYS_mbind, args)?;
    area.fill(3);
    while stage.next()? {
        area.check_all(3)?;
        ensure(policy(&part)? == (mode as u32, 1), "the policy is another")?;
        ensure(policy(&area)? == (0, 0), "the policy has spread")?;
    }
    Ok(())
}

fn policy(area: &Area) -> Result<(u32, u64), String> {
    const MPOL_F_ADDR: u64 = 2;
    let (mut mode, mut nodes) = (0_u32, [0_u64; 16]);
    let args = [
        (&raw mut mode) as u64,
        nodes.as_mut_ptr() as u64,
        1024,
        area.start(),
        MPOL_F_ADDR,
    ];
    syscall("get_mempolicy", libc::SYS_get_mempolicy, args)?;
    Ok((mode, nodes[0]))
}

/// A sealed area keeps its contents and its seal.
fn mseal(stage: &mut Stage) -> Result<(), String> {
    const SYS_MSEAL: i64 = 462;
    let area = Area::new(6, RW, PRIVATE)?;
    let sealed = area.pages(1, 2);
    area.fill(1);
    sealed.protect(libc::PROT_READ)?;
    syscall(
        "mseal",
        SYS_MSEAL,
        [sealed.start(), sealed.len as u64, 0, 0, 0],
    )?;
    while stage.next()? {
        area.check_all(1)?;
        ensure(sealed.protect(RW).is_err(), "the seal is broken")?;
        area.pages(4, 1).protect(RW)?;
    }
    Ok(())
}

/// Restored under its own pids, memory to be wiped in children is verbatim.
fn wipe_on_fork(stage: &mut Stage) -> Result<(), String> {
    let area = Area::new(3, RW, PRIVATE)?;
    area.advise(libc::MADV_WIPEONFORK)?;
    area.fill(6);
    while stage.next()? {
        area.check_all(6)?;
        // SAFETY: the child looks at one page and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let wiped = area.check_zero(1).is_ok();
            // SAFETY: nothing of the victim runs in the child any more.
            unsafe { libc::_exit(i32::from(!wiped)) };
        }
        let mut status = -1;
        // SAFETY: waits for our own child.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        ensure(status == 0, "the child's copy was not wiped")?;
    }
    Ok(())
}
