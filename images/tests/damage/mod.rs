//! Random damage to an image, the same for the same seed: in raw files, where
//! checksums must notice, and behind mended checksums, where only decoding and
//! semantic checks can.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::fs;
use std::path::Path;

use super::format::{
    Enveloped, Section, join_manifest, join_sections, replace_objects, split_manifest,
    split_sections,
};

/// What was done, and whether checksums were mended afterwards: then the image
/// may be sound again, for all a reader can know.
#[derive(Debug)]
pub struct Damage {
    pub what: String,
    pub mended: bool,
}

/// xorshift64*: random enough to damage things.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 16) % n as u64) as usize
    }

    pub fn one_of<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

/// Numbers that break things.
const NASTY: [u64; 14] = [
    0,
    1,
    0x7f,
    0xff,
    0xffff,
    1 << 20,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    1 << 40,
    1 << 47,
    1 << 63,
    u64::MAX - 4095,
    u64::MAX,
];

/// Damages the image in `dir`.
pub fn damage(dir: &Path, seed: u64) -> Damage {
    let mut random = Random::new(seed);
    let (what, mended) = match random.below(12) {
        0 => (flip_bit(dir, &mut random), false),
        1 => (truncate(dir, &mut random), false),
        2 => (extend(dir, &mut random), false),
        3 => (overwrite(dir, &mut random), false),
        4 => (change_head(dir, &mut random), true),
        5 => (change_manifest(dir, &mut random), true),
        6 => (change_sections(dir, &mut random), true),
        7 => (resize_payload(dir, &mut random), true),
        8 => (random_payload(dir, &mut random), true),
        _ => (change_values(dir, &mut random), true),
    };
    Damage { what, mended }
}

fn any_file(random: &mut Random) -> &'static str {
    random.one_of(&["manifest", "objects", "pages-0"])
}

fn flip_bit(dir: &Path, random: &mut Random) -> String {
    let name = any_file(random);
    let mut bytes = fs::read(dir.join(name)).unwrap();
    let (at, bit) = (random.below(bytes.len()), random.below(8));
    bytes[at] ^= 1 << bit;
    fs::write(dir.join(name), bytes).unwrap();
    format!("bit {bit} of byte {at} of {name} flipped")
}

fn truncate(dir: &Path, random: &mut Random) -> String {
    let name = any_file(random);
    let mut bytes = fs::read(dir.join(name)).unwrap();
    bytes.truncate(random.below(bytes.len()));
    let length = bytes.len();
    fs::write(dir.join(name), bytes).unwrap();
    format!("{name} truncated to {length} bytes")
}

fn extend(dir: &Path, random: &mut Random) -> String {
    let name = any_file(random);
    let mut bytes = fs::read(dir.join(name)).unwrap();
    let more = 1 + random.below(10_000);
    bytes.extend((0..more).map(|_| random.next() as u8));
    fs::write(dir.join(name), bytes).unwrap();
    format!("{name} extended by {more} bytes")
}

fn overwrite(dir: &Path, random: &mut Random) -> String {
    let name = any_file(random);
    let mut bytes = fs::read(dir.join(name)).unwrap();
    let at = random.below(bytes.len());
    let length = (1 + random.below(64)).min(bytes.len() - at);
    for byte in &mut bytes[at..at + length] {
        *byte = !*byte;
    }
    fs::write(dir.join(name), bytes).unwrap();
    format!("bytes {at} to {} of {name} inverted", at + length)
}

/// Another magic, version, kind, architecture or id in an envelope.
fn change_head(dir: &Path, random: &mut Random) -> String {
    let name = random.one_of(&["manifest", "objects"]);
    let mut file = Enveloped::read(&dir.join(name));
    let at = random.below(file.head.len());
    file.head[at] = random.next() as u8;
    fs::write(dir.join(name), file.seal()).unwrap();
    format!("byte {at} of {name} set to {:#x}, mended", file.head[at])
}

fn change_manifest(dir: &Path, random: &mut Random) -> String {
    let path = dir.join("manifest");
    let mut file = Enveloped::read(&path);
    let mut entries = split_manifest(&file.body);
    let at = random.below(entries.len());
    let what = random.below(6);
    match what {
        0 => entries[at].length = random.one_of(&NASTY),
        1 => entries[at].checksum ^= 1,
        2 => {
            let names = ["../objects", "/etc/passwd", "", "pages-7", "objects\0", "."];
            entries[at].name = random.one_of(&names).to_owned();
        }
        3 => drop(entries.remove(at)),
        4 => entries.push(entries[at].clone()),
        _ => entries.reverse(),
    }
    file.body = join_manifest(&entries);
    fs::write(&path, file.seal()).unwrap();
    format!("change {what} to entry {at} of the manifest, mended")
}

fn sections_of(dir: &Path) -> Vec<Section> {
    split_sections(&Enveloped::read(&dir.join("objects")).body)
}

/// A section dropped, doubled, moved, of another kind, version or flags.
fn change_sections(dir: &Path, random: &mut Random) -> String {
    let mut sections = sections_of(dir);
    let at = random.below(sections.len());
    let other = random.below(sections.len());
    let what = random.below(7);
    match what {
        0 => drop(sections.remove(at)),
        1 => sections.push(sections[at].clone()),
        2 => sections.swap(at, other),
        3 => sections[at].kind = random.next() as u16,
        4 => sections[at].version = random.next() as u16,
        5 => sections[at].flags = random.next() as u32,
        _ => sections[at].payload = sections[other].payload.clone(),
    }
    replace_objects(dir, join_sections(&sections));
    format!("change {what} to section {at} ({other}), mended")
}

/// A payload cut or lengthened: the fields no longer end where it does.
fn resize_payload(dir: &Path, random: &mut Random) -> String {
    let mut sections = sections_of(dir);
    let at = random.below(sections.len());
    let payload = &mut sections[at].payload;
    let length = random.below(payload.len() + 40);
    payload.resize(length, random.next() as u8);
    replace_objects(dir, join_sections(&sections));
    format!("section {at} resized to {length} bytes, mended")
}

fn random_payload(dir: &Path, random: &mut Random) -> String {
    let mut sections = sections_of(dir);
    let at = random.below(sections.len());
    let length = random.below(400);
    sections[at].payload = (0..length).map(|_| random.next() as u8).collect();
    replace_objects(dir, join_sections(&sections));
    format!("section {at} replaced by {length} random bytes, mended")
}

/// One to three values within payloads replaced by nasty ones.
fn change_values(dir: &Path, random: &mut Random) -> String {
    let mut sections = sections_of(dir);
    let mut what = String::new();
    for _ in 0..=random.below(3) {
        let index = random.below(sections.len());
        let payload = &mut sections[index].payload;
        let width = random.one_of(&[1, 4, 8]).min(payload.len());
        let at = random.below(payload.len() - width + 1);
        let value = match random.below(4) {
            0 => random.next(),
            _ => random.one_of(&NASTY),
        };
        payload[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        what += &format!("section {index} byte {at}: {value:#x} in {width} bytes; ");
    }
    replace_objects(dir, join_sections(&sections));
    what + "mended"
}
