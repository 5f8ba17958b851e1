//! Writing an image and reading it again.
#![allow(clippy::unwrap_used, clippy::panic)]

mod sample;

use std::fs;
use std::sync::{Arc, Mutex};

use icecore_images::pages::{CHUNK_SIZE, PAGE_SIZE};
use icecore_images::store::write_beside;
use icecore_images::{Image, ImageWriter, ReadError, WriteError, WriteOptions};

#[test]
fn what_is_written_is_read() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("image");
    let written = sample::write(&dir);
    let image = Image::open(&dir).unwrap();
    assert_eq!(image.checkpoint, written);
    assert!(image.verify(&mut |_| {}).is_empty());
    let mut page = vec![0; PAGE_SIZE as usize];
    image.pages.read_at(0, 2 * PAGE_SIZE, &mut page).unwrap();
    assert_eq!(page, vec![3; PAGE_SIZE as usize]);
}

#[cfg(unix)]
#[test]
fn images_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("image");
    sample::write(&dir);
    let mode = |p: &std::path::Path| fs::metadata(p).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&dir), 0o700);
    for name in ["manifest", "objects", "pages-0"] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
}

#[test]
fn an_image_is_never_overwritten() {
    let base = tempfile::tempdir().unwrap();
    sample::write(base.path());
    let error = ImageWriter::create(base.path()).unwrap_err();
    assert!(matches!(error, WriteError::Exists { .. }), "{error}");
}

#[test]
fn leftovers_go_and_strangers_stay() {
    let base = tempfile::tempdir().unwrap();
    let leftovers = ["objects", "pages-0", ".pages-17.tmp", ".manifest.tmp"];
    let beside = ["dump.log", "stats.json", "stats-restore.json", "mine"];
    for name in leftovers.iter().chain(&beside) {
        fs::write(base.path().join(name), "x").unwrap();
    }
    let error = ImageWriter::create(base.path()).unwrap_err();
    assert!(error.to_string().ends_with("not empty: mine"), "{error}");
    assert!(leftovers.iter().all(|n| base.path().join(n).exists()));

    let options = WriteOptions {
        beside: vec!["mine".into()],
        observer: None,
    };
    let writer = ImageWriter::create_with(base.path(), options).unwrap();
    assert!(leftovers.iter().all(|n| !base.path().join(n).exists()));
    drop(writer);
    assert!(beside.iter().all(|n| base.path().join(n).exists()));
}

#[test]
fn two_dumps_do_not_share_a_directory() {
    let base = tempfile::tempdir().unwrap();
    let mut first = ImageWriter::create(base.path()).unwrap();
    let _page_file = first.page_file(0).unwrap();
    let error = ImageWriter::create(base.path()).unwrap_err();
    assert!(matches!(error, WriteError::Busy { .. }), "{error}");
}

#[test]
fn an_abandoned_image_leaves_nothing() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("image");
    let mut writer = ImageWriter::create(&dir).unwrap();
    let _page_file = writer.page_file(0).unwrap();
    drop(writer);
    assert!(!dir.exists());

    let mut writer = ImageWriter::create(base.path()).unwrap();
    let _page_file = writer.page_file(0).unwrap();
    // The page file is empty, the checkpoint says otherwise.
    let error = writer.commit(&sample::checkpoint()).unwrap_err();
    assert!(matches!(error, WriteError::PageLength { .. }), "{error}");
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
}

/// At every step of writing the directory is either no image or a whole one.
#[test]
fn at_every_step_an_image_is_whole_or_none() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("image");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (log, at) = (Arc::clone(&seen), dir.clone());
    let options = WriteOptions {
        beside: Vec::new(),
        observer: Some(Box::new(move |step| {
            let opened = Image::open(&at);
            let whole = match opened {
                Ok(image) => {
                    assert!(image.verify(&mut |_| {}).is_empty());
                    true
                }
                Err(ReadError::NoManifest { .. }) => false,
                Err(e) => panic!("{step}: {e}"),
            };
            log.lock().unwrap().push((step.to_string(), whole));
        })),
    };
    let mut writer = ImageWriter::create_with(&dir, options).unwrap();
    let file = writer.page_file(0).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &sample::page_bytes(), 0).unwrap();
    writer.commit(&sample::checkpoint()).unwrap();
    let seen = seen.lock().unwrap();
    let first_whole = seen.iter().position(|(_, whole)| *whole).unwrap();
    assert_eq!(seen[first_whole].0, "manifest renamed");
    assert!(seen[first_whole..].iter().all(|(_, whole)| *whole));
    assert_eq!(seen.len(), 16, "{seen:?}");
}

#[test]
fn pages_are_verified_as_they_are_read() {
    let base = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..CHUNK_SIZE * 2 + PAGE_SIZE)
        .map(|n| (n % 251) as u8)
        .collect();
    let mut checkpoint = sample::checkpoint();
    checkpoint.page_files = vec![sample::page_file(&bytes)];
    sample::write_as(base.path(), &checkpoint, &bytes);

    let image = Image::open(base.path()).unwrap();
    let across = CHUNK_SIZE - 3 * PAGE_SIZE;
    let mut out = vec![0; (CHUNK_SIZE + 4 * PAGE_SIZE) as usize];
    image.pages.read_at(0, across, &mut out).unwrap();
    assert_eq!(out, bytes[across as usize..][..out.len()]);

    let path = base.path().join("pages-0");
    let mut damaged = bytes.clone();
    damaged[CHUNK_SIZE as usize + 5] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let error = image.pages.read_at(0, across, &mut out).unwrap_err();
    let ReadError::PageChecksum { offset, end, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((offset, end), (CHUNK_SIZE, 2 * CHUNK_SIZE));
    assert_eq!(image.verify(&mut |_| {}).len(), 1);
    let error = image.pages.read_at(0, bytes.len() as u64 - 1, &mut [0; 2]);
    assert!(matches!(error, Err(ReadError::PageRange { .. })));
}

#[test]
fn what_lies_beside_is_written_whole() {
    let base = tempfile::tempdir().unwrap();
    for text in ["{}", "{\"total_us\": 1}"] {
        let path = write_beside(base.path(), "stats.json", text.as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), text);
    }
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
}
