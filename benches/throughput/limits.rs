//! What the machine can do: the same bytes copied, written and read as simply
//! as can be, by one thread.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use memmap2::MmapMut;

use crate::Outcome;

/// Bytes written or read at once.
const PORTION: usize = 1 << 20;

/// Microseconds of each.
pub(crate) fn measure(size: u64, dir: &Path) -> Outcome<Vec<(&'static str, u64)>> {
    let mut portion = MmapMut::map_anon(PORTION)?;
    for (i, byte) in portion.iter_mut().enumerate() {
        *byte = ((i * 31) >> 3) as u8;
    }
    let portions = size.div_ceil(PORTION as u64);
    let path = dir.join("limit");
    let mut all = vec![("memcpy", copy(&portion, portions)?)];
    all.push(("write", write(&portion, portions, &path, 0)?));
    all.push(("read into fresh memory", read(size, &path)?));
    std::fs::remove_file(&path)?;
    // Not every file system has it.
    if let Ok(us) = write(&portion, portions, &path, libc::O_DIRECT) {
        all.push(("write O_DIRECT", us));
    }
    let _ = std::fs::remove_file(&path);
    Ok(all)
}

fn micros(since: Instant) -> u64 {
    since.elapsed().as_micros() as u64
}

fn copy(portion: &[u8], portions: u64) -> Outcome<u64> {
    let mut to = MmapMut::map_anon(PORTION)?;
    to.copy_from_slice(portion);
    let since = Instant::now();
    for _ in 0..portions {
        to.copy_from_slice(std::hint::black_box(portion));
    }
    Ok(micros(since))
}

fn write(portion: &[u8], portions: u64, path: &Path, flags: i32) -> Outcome<u64> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true);
    let mut file = options.custom_flags(flags).open(path)?;
    let since = Instant::now();
    for _ in 0..portions {
        file.write_all(portion)?;
    }
    Ok(micros(since))
}

fn read(size: u64, path: &Path) -> Outcome<u64> {
    let mut file = File::open(path)?;
    let since = Instant::now();
    let mut memory = MmapMut::map_anon(size as usize)?;
    for part in memory.chunks_mut(PORTION) {
        file.read_exact(part)?;
    }
    Ok(micros(since))
}
