//! Private anonymous memory.

use super::area::{Area, PAGE, PRIVATE, RW, ensure};
use crate::harness::{Stage, Victim};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("anon", anon),
        Victim::new("reserved", reserved),
        Victim::new("protect", protect),
        Victim::new("code", code),
        Victim::new("droppable", droppable),
    ]
}

/// Written, zeroed, read and untouched pages in turn.
fn anon(stage: &mut Stage) -> Result<(), String> {
    const PAGES: usize = 4000;
    let area = Area::new(PAGES, RW, PRIVATE)?;
    let mut seed = 1;
    loop {
        for page in 0..PAGES {
            match page % 5 {
                0 | 1 => area.write(page, seed),
                2 => {
                    area.write(page, seed);
                    // SAFETY: within the area, which is ours and writable.
                    unsafe { area.at.add(page * PAGE).write_bytes(0, PAGE) };
                }
                3 => area.check_zero(page)?,
                _ => {}
            }
        }
        if !stage.next()? {
            return Ok(());
        }
        for page in 0..PAGES {
            match page % 5 {
                0 | 1 => area.check(page, seed)?,
                _ => area.check_zero(page)?,
            }
        }
        seed += 1;
    }
}

/// A terabyte of address space with a few pages in it, as runtimes have.
fn reserved(stage: &mut Stage) -> Result<(), String> {
    const PAGES: usize = 1 << 28;
    let area = Area::new(PAGES, libc::PROT_NONE, PRIVATE | libc::MAP_NORESERVE)?;
    let parts = [0, 77, 1 << 20, PAGES - 3].map(|from| area.pages(from, 3));
    for (i, part) in parts.iter().enumerate() {
        part.protect(RW)?;
        part.fill(i as u64 + 1);
    }
    while stage.next()? {
        for (i, part) in parts.iter().enumerate() {
            part.check_all(i as u64 + 1)?;
        }
    }
    Ok(())
}

/// Protections that changed after writing, none at all among them.
fn protect(stage: &mut Stage) -> Result<(), String> {
    let area = Area::new(30, RW, PRIVATE)?;
    area.fill(5);
    let read_only = area.pages(3, 4);
    let hidden = area.pages(10, 5);
    let untouched = Area::new(4, libc::PROT_NONE, PRIVATE)?;
    read_only.protect(libc::PROT_READ)?;
    hidden.protect(libc::PROT_NONE)?;
    while stage.next()? {
        ensure(!readable(&hidden), "a page without access can be read")?;
        ensure(!readable(&untouched), "a page without access can be read")?;
        read_only
            .check(0, 5)
            .err()
            .map_or(Ok(()), |_| area.check(3, 5))?;
        hidden.protect(libc::PROT_READ)?;
        area.check_all(5)?;
        hidden.protect(libc::PROT_NONE)?;
    }
    Ok(())
}

/// Whether the kernel can read it for us.
fn readable(area: &Area) -> bool {
    let mut byte = 0_u8;
    let local = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let remote = libc::iovec {
        iov_base: area.at.cast(),
        iov_len: 1,
    };
    // SAFETY: one byte goes from wherever to `byte`, or the call fails.
    unsafe {
        libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) == 1
    }
}

/// Machine code made at run time, as compilers of that kind do.
fn code(stage: &mut Stage) -> Result<(), String> {
    let area = Area::new(1, RW, PRIVATE)?;
    // mov eax, 4711; ret
    let bytes = [0xb8, 0x67, 0x12, 0, 0, 0xc3];
    // SAFETY: six bytes into a page of ours.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), area.at, bytes.len()) };
    area.protect(libc::PROT_READ | libc::PROT_EXEC)?;
    while stage.next()? {
        // SAFETY: the page holds exactly this function.
        let made: extern "C" fn() -> u32 = unsafe { std::mem::transmute(area.at) };
        ensure(made() == 4711, "the function made at run time is another")?;
    }
    Ok(())
}

/// Memory that may be dropped comes back empty, with its flag.
fn droppable(stage: &mut Stage) -> Result<(), String> {
    const MAP_DROPPABLE: i32 = 0x8;
    let flags = MAP_DROPPABLE | libc::MAP_ANONYMOUS;
    let area = Area::new(4, RW, flags)?;
    while stage.next()? {
        let page = area.read(1);
        let intact = area.check(1, 3).is_ok();
        ensure(
            intact || page.iter().all(|w| *w == 0),
            "half a page was dropped",
        )?;
        let kept = super::area::own_flags(area.start())?.contains(" dp");
        ensure(kept, "the area is no longer droppable")?;
        area.fill(3);
    }
    Ok(())
}
