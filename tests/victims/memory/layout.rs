//! Where areas lie: stacks that grow, heaps, neighbours, very many areas.

use super::area::{Area, PAGE, PRIVATE, RW, done, ensure, own_flags, own_maps};
use crate::harness::{Stage, Victim};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("growsdown", growsdown),
        Victim::new("deep_stack", deep_stack),
        Victim::new("heap", heap),
        Victim::new("neighbours", neighbours),
        Victim::new("many_vmas", many_vmas),
        Victim::new("low_and_high", low_and_high),
        Victim::new("exact_map", exact_map),
    ]
}

/// An area that grows downwards when touched below its start.
fn growsdown(stage: &mut Stage) -> Result<(), String> {
    // Room to grow into, with the kernel's stack guard gap below.
    let room = Area::new(1024, libc::PROT_NONE, PRIVATE)?;
    // SAFETY: the room is ours and unused.
    done("munmap", unsafe { libc::munmap(room.at.cast(), room.len) })?;
    let top = room.pages(1000, 24);
    let flags = PRIVATE | libc::MAP_GROWSDOWN | libc::MAP_FIXED;
    Area::map(top.at, top.len, RW, flags, -1, 0)?;
    top.fill(1);
    let mut lowest = 1000;
    while stage.next()? {
        top.check_all(1)?;
        for page in lowest..1000 {
            room.check(page, 2)?;
        }
        lowest -= 20;
        for page in (lowest..1000).rev() {
            room.write(page, 2);
        }
    }
    Ok(())
}

/// A main stack that has been deep once, and goes deeper.
fn deep_stack(stage: &mut Stage) -> Result<(), String> {
    let mut depth = 200;
    while {
        ensure(descend(depth) == depth, "a stack frame was lost")?;
        stage.next()?
    } {
        depth += 100;
    }
    Ok(())
}

#[inline(never)]
fn descend(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 256]);
    match depth {
        0 => 0,
        _ => descend(depth - 1) + frame.iter().all(|&w| w == depth) as u64,
    }
}

/// The heap made by brk, which goes on growing where it ended.
fn heap(stage: &mut Stage) -> Result<(), String> {
    let grow = |bytes: isize| {
        // SAFETY: the new memory is ours; malloc copes with others' sbrk.
        unsafe { libc::sbrk(bytes) }
    };
    let mut pieces = Vec::new();
    loop {
        let at = grow(16 * PAGE as isize);
        ensure(at as isize != -1, "the heap does not grow")?;
        let at = at.cast::<u8>();
        let skip = at.align_offset(PAGE);
        // SAFETY: at most one page of sixteen is left out.
        let at = unsafe { at.add(skip) };
        let piece = Area { at, len: 15 * PAGE };
        let seed = pieces.len() as u64 + 1;
        piece.fill(seed);
        pieces.push(piece);
        if !stage.next()? {
            return Ok(());
        }
        for (i, piece) in pieces.iter().enumerate() {
            piece.check_all(i as u64 + 1)?;
        }
    }
}

/// Two areas that touch, alike in everything, and are two all the same.
fn neighbours(stage: &mut Stage) -> Result<(), String> {
    let room = Area::new(64, libc::PROT_NONE, PRIVATE)?;
    let elsewhere = [
        Area::new(8, RW, PRIVATE)?,
        Area::new(8, libc::PROT_READ, PRIVATE)?,
    ];
    elsewhere[1].protect(RW)?;
    for (i, area) in elsewhere.iter().enumerate() {
        area.fill(i as u64);
        let to = room.pages(8 + 8 * i, 8);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: both areas are ours, and what is at the new place may go.
        let moved = unsafe { libc::mremap(area.at.cast(), area.len, to.len, flags, to.at) };
        ensure(moved == to.at.cast(), "an area could not be moved")?;
    }
    let lines = || -> Result<usize, String> {
        let starts = [room.pages(8, 8), room.pages(16, 8)].map(|a| format!("{:x}-", a.start()));
        let maps = own_maps()?;
        Ok(maps
            .iter()
            .filter(|l| starts.iter().any(|s| l.starts_with(s)))
            .count())
    };
    ensure(lines()? == 2, "the two areas have merged before the dump")?;
    while stage.next()? {
        room.pages(8, 8).check_all(0)?;
        room.pages(16, 8).check_all(1)?;
        ensure(lines()? == 2, "the two areas have merged")?;
    }
    Ok(())
}

/// Thousands of areas, one page each, of alternating protection.
fn many_vmas(stage: &mut Stage) -> Result<(), String> {
    const PAGES: usize = 10_000;
    let area = Area::new(PAGES, RW, PRIVATE)?;
    for page in (0..PAGES).step_by(4) {
        area.write(page, 1);
    }
    for page in (1..PAGES).step_by(2) {
        area.pages(page, 1).protect(libc::PROT_READ)?;
    }
    while stage.next()? {
        for page in (0..PAGES).step_by(4) {
            area.check(page, 1)?;
            area.check_zero(page + 1)?;
        }
        let count = own_maps()?.len();
        ensure(count >= PAGES, &format!("only {count} areas"))?;
    }
    Ok(())
}

/// Areas at the lowest and at the highest address there is.
fn low_and_high(stage: &mut Stage) -> Result<(), String> {
    let lowest = 0x1_0000 as *mut u8;
    let highest = 0x7fff_ffff_e000 as *mut u8;
    let fixed = PRIVATE | libc::MAP_FIXED_NOREPLACE;
    let low = Area::map(lowest, PAGE, RW, fixed, -1, 0)?;
    let high = Area::map(highest, PAGE, RW, fixed, -1, 0)?;
    low.fill(1);
    high.fill(2);
    while stage.next()? {
        low.check_all(1)?;
        high.check_all(2)?;
    }
    Ok(())
}

/// The memory map is the same to the letter, with every flag: also those that
/// tell how memory is accounted for.
fn exact_map(stage: &mut Stage) -> Result<(), String> {
    let once_written = Area::new(3, RW, PRIVATE)?;
    once_written.write(1, 1);
    once_written.protect(libc::PROT_READ)?;
    let never = Area::new(3, libc::PROT_READ, PRIVATE)?;
    let hidden = Area::new(3, libc::PROT_NONE, PRIVATE)?;
    let unaccounted = Area::new(3, RW, PRIVATE | libc::MAP_NORESERVE)?;
    unaccounted.write(0, 2);
    unaccounted.protect(libc::PROT_READ)?;
    let stack = Area::new(3, RW, PRIVATE | libc::MAP_STACK)?;
    stack.write(2, 3);
    let areas = [once_written, never, hidden, unaccounted, stack];
    let picture = || -> Result<Vec<String>, String> {
        let maps = own_maps()?;
        let mut lines = Vec::new();
        for area in &areas {
            let start = format!("{:x}-", area.start());
            lines.extend(maps.iter().find(|l| l.starts_with(&start)).cloned());
            lines.push(own_flags(area.start()).unwrap_or_default());
        }
        lines.extend(maps.into_iter().filter(|l| !l.contains('[')));
        Ok(lines)
    };
    let mut before = picture()?;
    while stage.next()? {
        let after = picture()?;
        let changed: Vec<_> = after.iter().filter(|l| !before.contains(l)).collect();
        ensure(
            changed.is_empty(),
            &format!("the map has changed: {changed:#?}"),
        )?;
        before = picture()?;
    }
    Ok(())
}
