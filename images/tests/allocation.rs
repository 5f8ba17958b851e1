//! A damaged image never makes the reader claim much memory. One test only:
//! what is measured is the whole process.
#![allow(clippy::unwrap_used)]

mod damage;
mod format;
mod sample;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use icecore_images::Image;

/// The sample takes a few KiB, a chunk of pages 1 MiB, and a section of its
/// size at most 1 MiB more.
const LIMIT_KIB: u64 = 16 << 10;

#[test]
fn damage_claims_little_memory() {
    let base = tempfile::tempdir().unwrap();
    let sound = base.path().join("sound");
    sample::write(&sound);
    let dir = base.path().join("damaged");
    fs::create_dir(&dir).unwrap();
    let fresh = || {
        for name in ["manifest", "objects", "pages-0"] {
            fs::copy(sound.join(name), dir.join(name)).unwrap();
        }
    };
    fresh();
    let _ = read(&dir);
    let before = peak_memory_kib();
    for seed in 0..300 {
        fresh();
        damage::damage(&dir, seed);
        let _ = read(&dir);
        assert!(peak_memory_kib() - before < LIMIT_KIB, "seed {seed}");
    }
    fresh();
    for index in 0..13 {
        claim_much(&dir, index);
        let start = Instant::now();
        // Section 1 is the clocks, where any number will do.
        assert!(!read(&dir) || index == 1, "section {index}");
        assert!(peak_memory_kib() - before < LIMIT_KIB, "section {index}");
        assert!(start.elapsed() < Duration::from_secs(5), "section {index}");
        fresh();
    }
}

fn read(dir: &Path) -> bool {
    match Image::open(dir) {
        Ok(image) => image.verify(&mut |_| {}).is_empty(),
        Err(_) => false,
    }
}

/// Makes a section begin with a count of 2^40.
fn claim_much(dir: &Path, index: usize) {
    let body = format::Enveloped::read(&dir.join("objects")).body;
    let mut sections = format::split_sections(&body);
    sections[index].payload[..8].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    format::replace_objects(dir, format::join_sections(&sections));
}

/// The most address space this process ever had: even an allocation that is
/// never touched counts.
fn peak_memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
