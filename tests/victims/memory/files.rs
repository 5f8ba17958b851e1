//! Mapped files.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::area::{Area, PAGE, RW, ensure};
use crate::harness::{Stage, Victim};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("file_private", file_private),
        Victim::new("file_shared", file_shared),
        Victim::new("file_names", file_names),
        Victim::new("dev_zero", dev_zero),
        // A nameless file gets no name again, not even as a memory of one.
        Victim::new("deleted_map", deleted_map).allow("map/*"),
    ]
}

const READ: i32 = libc::PROT_READ;

/// A file of `pages` pages, page N filled with N + 1.
fn numbered(path: &PathBuf, pages: usize) -> Result<File, String> {
    let bytes: Vec<u8> = (0..pages * PAGE).map(|i| (i / PAGE + 1) as u8).collect();
    fs::write(path, bytes).map_err(|e| e.to_string())?;
    let open = File::options().read(true).write(true).open(path);
    open.map_err(|e| e.to_string())
}

fn holds(area: &Area, page: usize, byte: u8) -> Result<(), String> {
    let word = u64::from_ne_bytes([byte; 8]);
    let same = area.read(page).iter().all(|w| *w == word);
    ensure(same, &format!("page {page} does not hold {byte}"))
}

/// Some pages changed, the rest the file's; the last ones beyond its end.
fn file_private(stage: &mut Stage) -> Result<(), String> {
    let file = numbered(&stage.dir().join("private"), 20)?;
    let area = Area::of_file(file.as_fd(), 2 * PAGE, 24, RW, libc::MAP_PRIVATE)?;
    let fixed = Area::of_file(file.as_fd(), 0, 3, RW, libc::MAP_PRIVATE)?;
    fixed.fill(9);
    fixed.protect(READ)?;
    drop(file);
    for page in [0, 5, 6, 17] {
        area.write(page, 7);
    }
    // SAFETY: a page of ours; zeros over the file's bytes are a change too.
    unsafe { area.at.add(8 * PAGE).write_bytes(0, PAGE) };
    while stage.next()? {
        for page in [0, 5, 6, 17] {
            area.check(page, 7)?;
        }
        area.check_zero(8)?;
        holds(&area, 1, 4)?;
        holds(&area, 16, 19)?;
        fixed.check_all(9)?;
    }
    Ok(())
}

/// What is written through the mapping is in the file and the other way
/// round; a mapping of a file open for reading never becomes writable.
fn file_shared(stage: &mut Stage) -> Result<(), String> {
    let path = stage.dir().join("shared");
    let file = numbered(&path, 8)?;
    let area = Area::of_file(file.as_fd(), 0, 8, RW, libc::MAP_SHARED)?;
    let only = File::open(&path).map_err(|e| e.to_string())?;
    let read_only = Area::of_file(only.as_fd(), PAGE, 2, READ, libc::MAP_SHARED)?;
    let may_write = Area::of_file(file.as_fd(), 0, 1, READ, libc::MAP_SHARED)?;
    drop((only, file));
    let mut seed = 100;
    area.write(1, seed);
    while stage.next()? {
        area.check(1, seed)?;
        read_only.check_same(0, &area, 1)?;
        ensure(
            read_only.protect(RW).is_err(),
            "a read-only mapping became writable",
        )?;
        may_write.protect(RW)?;
        may_write.protect(READ)?;
        seed += 1;
        area.write(1, seed);
        area.write(3, seed);
        let mut bytes = vec![0; PAGE];
        let file = File::open(&path).map_err(|e| e.to_string())?;
        file.read_exact_at(&mut bytes, PAGE as u64)
            .map_err(|e| e.to_string())?;
        let first = u64::from_ne_bytes(bytes[..8].try_into().map_err(|_| "short")?);
        ensure(
            first == area.read(1)[0],
            "the file does not show what was written",
        )?;
    }
    Ok(())
}

/// Names that confuse whoever parses the map as text.
fn file_names(stage: &mut Stage) -> Result<(), String> {
    let names: [&[u8]; 5] = [
        b"new\nline",
        b"not \xff\xfe utf-8",
        b"trailing space ",
        b"gone (deleted)",
        b"back\\012slash",
    ];
    let mut areas = Vec::new();
    for name in names {
        let file = numbered(&stage.dir().join(OsStr::from_bytes(name)), 2)?;
        let area = Area::of_file(file.as_fd(), 0, 2, RW, libc::MAP_PRIVATE)?;
        area.write(1, 3);
        areas.push(area);
    }
    while stage.next()? {
        for area in &areas {
            holds(area, 0, 1)?;
            area.check(1, 3)?;
        }
    }
    Ok(())
}

/// /dev/zero mapped privately: anonymous memory with a file's name.
fn dev_zero(stage: &mut Stage) -> Result<(), String> {
    let zero = File::open("/dev/zero").map_err(|e| e.to_string())?;
    let area = Area::of_file(zero.as_fd(), 0, 6, RW, libc::MAP_PRIVATE)?;
    drop(zero);
    area.write(2, 8);
    while stage.next()? {
        area.check(2, 8)?;
        area.check_zero(3)?;
    }
    Ok(())
}

/// A file without a name, mapped twice.
fn deleted_map(stage: &mut Stage) -> Result<(), String> {
    let path = stage.dir().join("deleted");
    let file = numbered(&path, 10)?;
    let shared = Area::of_file(file.as_fd(), 0, 10, RW, libc::MAP_SHARED)?;
    let private = Area::of_file(file.as_fd(), 0, 10, RW, libc::MAP_PRIVATE)?;
    fs::remove_file(&path).map_err(|e| e.to_string())?;
    drop(file);
    shared.write(2, 21);
    private.write(4, 22);
    let mut seed = 30;
    while stage.next()? {
        shared.check(2, 21)?;
        private.check_same(2, &shared, 2)?;
        private.check(4, 22)?;
        holds(&shared, 4, 5)?;
        seed += 1;
        shared.write(6, seed);
        private.check(6, seed)?;
    }
    Ok(())
}

impl Area {
    /// Whether a page is the same as one of another area.
    fn check_same(&self, page: usize, other: &Self, others: usize) -> Result<(), String> {
        let same = self.read(page) == other.read(others);
        ensure(
            same,
            &format!("page {page} is not the other mapping's {others}"),
        )
    }
}
