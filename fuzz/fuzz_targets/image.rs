//! A whole image: its three files, one after the other, each with its length
//! before it. Checksums stop nearly everything here but what mends them; what
//! comes before them (envelope, lengths, names) is what this looks at.
#![no_main]

use std::fs;
use std::path::PathBuf;

use icecore_images::Image;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let dir = directory();
    let mut rest = input;
    for name in ["manifest", "objects", "pages-0"] {
        let Some((length, tail)) = rest.split_first_chunk::<2>() else {
            return;
        };
        let length = usize::from(u16::from_le_bytes(*length)).min(tail.len());
        let (contents, tail) = tail.split_at(length);
        fs::write(dir.join(name), contents).expect("write a file of the image");
        rest = tail;
    }
    if let Ok(image) = Image::open(&dir) {
        image.verify(&mut |_| {});
    }
});

/// One directory a process, in memory where there is one.
fn directory() -> PathBuf {
    let base = match fs::metadata("/dev/shm") {
        Ok(_) => PathBuf::from("/dev/shm"),
        Err(_) => std::env::temp_dir(),
    };
    let dir = base.join(format!("icecore-fuzz-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("create a directory for the image");
    dir
}
