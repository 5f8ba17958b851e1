//! Golden images: one for every version of the format, each of which every
//! later reader must read to the last byte. `checkpoint.json` beside an image
//! says what it says.
//!
//! Until 1.0 is released, `ICECORE_BLESS=1` writes its golden image anew; after
//! that a change of layout is a new version (docs/format.md) with a directory
//! of its own, and these stay as they are.
#![allow(clippy::unwrap_used)]

mod format;
mod sample;

use std::fs;
use std::path::{Path, PathBuf};

use icecore_images::envelope::VERSION;
use icecore_images::{Image, objects};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn current() -> PathBuf {
    golden().join(format!("{}.{}", VERSION.0, VERSION.1))
}

/// The image of the current version, made anew if that is asked for.
fn bless() {
    if std::env::var_os("ICECORE_BLESS").is_none() {
        return;
    }
    let dir = current();
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let checkpoint = sample::write(&dir);
    let text = serde_json::to_string_pretty(&checkpoint).unwrap();
    fs::write(dir.join("checkpoint.json"), text + "\n").unwrap();
}

#[test]
fn every_version_is_read_to_the_last_byte() {
    bless();
    assert!(current().is_dir(), "this version has no golden image");
    for entry in fs::read_dir(golden()).unwrap() {
        let dir = entry.unwrap().path();
        let image = Image::open(&dir).unwrap_or_else(|e| {
            let cause = std::error::Error::source(&e).map(ToString::to_string);
            unreadable(&dir, &format!("{e}: {}", cause.unwrap_or_default()))
        });
        assert!(image.verify(&mut |_| {}).is_empty(), "{}", dir.display());
        let said = serde_json::to_value(&image.checkpoint).unwrap();
        let text = fs::read_to_string(dir.join("checkpoint.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(said, expected, "{}", dir.display());
    }
    let body = format::Enveloped::read(&current().join("objects")).body;
    let checkpoint = Image::open(&current()).unwrap().checkpoint;
    assert_eq!(objects::encode(&checkpoint).unwrap(), body);
}

#[allow(clippy::panic)]
fn unreadable(dir: &Path, why: &str) -> ! {
    panic!(
        "golden image {} cannot be read any more: {why}\n\
         The layout of a type has changed. While its version is not released, \
         ICECORE_BLESS=1 cargo test -p icecore-images accepts that; afterwards docs/format.md \
         says what it takes.",
        dir.display()
    )
}
