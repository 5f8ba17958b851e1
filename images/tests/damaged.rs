//! Damaged images: whatever is done to one, the reader gives a typed error or
//! an image that makes sense; never a panic, never a long time.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod damage;
mod format;
mod sample;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use icecore_images::{Image, ReadError};

/// Number of images damaged.
const IMAGES: u64 = 500;

/// Opens it and reads it all.
fn read(dir: &Path) -> Result<(), Vec<ReadError>> {
    let image = Image::open(dir).map_err(|e| vec![e])?;
    let damaged = image.verify(&mut |_| {});
    match damaged.is_empty() {
        true => Ok(()),
        false => Err(damaged),
    }
}

#[test]
fn damage_is_a_typed_error() {
    let base = tempfile::tempdir().unwrap();
    let sound = base.path().join("sound");
    sample::write(&sound);
    let dir = base.path().join("damaged");
    fs::create_dir(&dir).unwrap();

    let (mut refused, mut unnoticed) = (0, 0);
    for seed in 0..IMAGES {
        for name in ["manifest", "objects", "pages-0"] {
            fs::copy(sound.join(name), dir.join(name)).unwrap();
        }
        let damage = damage::damage(&dir, seed);
        let start = Instant::now();
        let outcome = read(&dir);
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "seed {seed}: {} took {:?}",
            damage.what,
            start.elapsed()
        );
        match outcome {
            Ok(()) => {
                assert!(damage.mended, "seed {seed}: unnoticed: {}", damage.what);
                is_written_as_it_was_read(&dir);
                unnoticed += 1;
            }
            Err(errors) => {
                errors.iter().for_each(|e| names_its_file(&dir, e));
                refused += 1;
            }
        }
    }
    println!("{refused} refused, {unnoticed} mended so that they make sense");
    // Most mended changes hit a field that may hold anything (a register), but
    // not all: else the semantic checks look at nothing.
    assert!(refused > IMAGES / 2, "only {refused} refused");
    assert!(unnoticed > 0, "no change was mended well enough");
}

/// What is accepted has one encoding only: written again, it is the same.
fn is_written_as_it_was_read(dir: &Path) {
    let again = dir.with_file_name("again");
    let checkpoint = Image::open(dir).unwrap().checkpoint;
    sample::write_as(&again, &checkpoint, &sample::page_bytes());
    let sections = |dir: &Path| {
        let mut sections =
            format::split_sections(&format::Enveloped::read(&dir.join("objects")).body);
        sections.retain(|s| s.kind <= 13);
        sections.sort_by_key(|s| s.kind);
        sections
    };
    let (read, written) = (sections(dir), sections(&again));
    for section in &read {
        let same = written.iter().find(|s| s.kind == section.kind).unwrap();
        assert_eq!(same.payload, section.payload, "section {}", section.kind);
    }
    fs::remove_dir_all(again).unwrap();
}

fn names_its_file(dir: &Path, error: &ReadError) {
    let mut text = error.to_string();
    assert!(error.path().starts_with(dir), "{text}");
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    assert!(!text.ends_with('.') && !text.contains('\n'), "{text}");
}

/// Every single bit of every file, one after the other.
#[test]
fn every_bit_counts() {
    let base = tempfile::tempdir().unwrap();
    sample::write(base.path());
    for name in ["manifest", "objects", "pages-0"] {
        let path = base.path().join(name);
        let sound = fs::read(&path).unwrap();
        // A prime step: all bits of the small files would take a minute.
        let step = 1 + sound.len() / 997;
        for at in (0..sound.len()).step_by(step) {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, &bytes).unwrap();
            assert!(read(base.path()).is_err(), "{name} byte {at}");
        }
        fs::write(&path, sound).unwrap();
    }
    assert!(read(base.path()).is_ok());
}

#[test]
fn sections_may_come_in_any_order_and_unknown_ones_if_optional() {
    let base = tempfile::tempdir().unwrap();
    let written = sample::write(base.path());
    let body = format::Enveloped::read(&base.path().join("objects")).body;
    let mut sections = format::split_sections(&body);
    sections.reverse();
    let newer = |flags| format::Section {
        kind: 900,
        version: 1,
        flags,
        payload: vec![1, 2, 3],
    };
    sections.push(newer(1));
    format::replace_objects(base.path(), format::join_sections(&sections));
    assert_eq!(Image::open(base.path()).unwrap().checkpoint, written);

    sections.push(newer(0));
    format::replace_objects(base.path(), format::join_sections(&sections));
    let error = Image::open(base.path()).unwrap_err();
    assert!(error.help().unwrap().contains("newer"), "{error:?}");
}
