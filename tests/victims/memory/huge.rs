//! Huge pages, reserved and transparent.

use std::fs;
use std::os::fd::AsFd;

use super::area::{Area, PAGE, PRIVATE, RW, SHARED, ensure};
use super::shared::memfd;
use crate::harness::{Stage, Victim};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("hugetlb", hugetlb).needs(reserve),
        Victim::new("thp", thp),
    ]
}

/// Pages in a huge page.
const HUGE: usize = 512;
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Huge pages for a victim, its image's restore and some to spare.
fn reserve() -> Result<(), String> {
    const NEEDED: u64 = 24;
    let read = |file: &str| -> Result<u64, String> {
        let text = fs::read_to_string(format!("{POOL}/{file}")).map_err(|e| e.to_string())?;
        text.trim().parse().map_err(|_| "not a number".to_owned())
    };
    if read("free_hugepages")? < NEEDED {
        let wanted = read("nr_hugepages")? + NEEDED;
        fs::write(format!("{POOL}/nr_hugepages"), wanted.to_string())
            .map_err(|e| format!("reserve huge pages: {e}"))?;
    }
    match read("free_hugepages")? >= NEEDED {
        true => Ok(()),
        false => Err(format!("{NEEDED} free huge pages of 2 MB")),
    }
}

/// Private and shared anonymous ones, and a memfd of them.
fn hugetlb(stage: &mut Stage) -> Result<(), String> {
    let private = Area::new(3 * HUGE, RW, PRIVATE | libc::MAP_HUGETLB)?;
    let shared = Area::new(2 * HUGE, RW, SHARED | libc::MAP_HUGETLB)?;
    let file = memfd("huge", libc::MFD_HUGETLB | libc::MFD_HUGE_2MB, 2 * HUGE)?;
    let mapped = Area::of_file(file.as_fd(), 0, 2 * HUGE, RW, libc::MAP_SHARED)?;
    let areas = [private, shared, mapped];
    for area in &areas {
        area.write(0, 1);
        area.write(HUGE + 100, 2);
    }
    while stage.next()? {
        for area in &areas {
            area.check(0, 1)?;
            area.check_zero(1)?;
            area.check(HUGE + 100, 2)?;
        }
        private.check_zero(2 * HUGE)?;
    }
    Ok(())
}

/// Memory advised to be of huge pages, and some not to be.
fn thp(stage: &mut Stage) -> Result<(), String> {
    let area = Area::new(6 * HUGE, RW, PRIVATE)?;
    let skip = (area.start() as usize).next_multiple_of(HUGE * PAGE) - area.start() as usize;
    let huge = area.pages(skip / PAGE, 3 * HUGE);
    huge.advise(libc::MADV_HUGEPAGE)?;
    huge.fill(4);
    let small = area.pages(skip / PAGE + 3 * HUGE, HUGE);
    small.advise(libc::MADV_NOHUGEPAGE)?;
    small.fill(5);
    while stage.next()? {
        huge.check_all(4)?;
        small.check_all(5)?;
        ensure(
            flags(&huge)?.contains(" hg"),
            "huge pages are no longer wanted",
        )?;
        ensure(
            flags(&small)?.contains(" nh"),
            "huge pages are wanted again",
        )?;
    }
    Ok(())
}

fn flags(area: &Area) -> Result<String, String> {
    super::area::own_flags(area.start())
}
