//! The format by the book: envelopes, sections and manifests taken apart and
//! put together as `docs/format.md` describes them, sharing no code with the
//! reader under test.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::fs;
use std::path::Path;

/// Bytes of an envelope.
pub const ENVELOPE: usize = 44;

/// An enveloped file: the fields of its envelope as bytes, and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enveloped {
    /// Magic, version, kind, architecture, id: bytes 0 to 31.
    pub head: [u8; 32],
    pub body: Vec<u8>,
}

impl Enveloped {
    pub fn read(path: &Path) -> Self {
        Self::parse(&fs::read(path).unwrap())
    }

    pub fn parse(file: &[u8]) -> Self {
        let body = file[ENVELOPE..].to_vec();
        assert_eq!(u64_at(file, 32), body.len() as u64);
        let enveloped = Self {
            head: file[..32].try_into().unwrap(),
            body,
        };
        assert_eq!(enveloped.seal(), file, "the checksum is as documented");
        enveloped
    }

    /// The file, with length and checksum right again.
    pub fn seal(&self) -> Vec<u8> {
        let mut file = self.head.to_vec();
        file.extend((self.body.len() as u64).to_le_bytes());
        let mut covered = file.clone();
        covered.extend(&self.body);
        file.extend(crc32(&covered).to_le_bytes());
        file.extend(&self.body);
        file
    }
}

/// A section of the objects file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    pub kind: u16,
    pub version: u16,
    pub flags: u32,
    pub payload: Vec<u8>,
}

pub fn split_sections(body: &[u8]) -> Vec<Section> {
    let count = u32_at(body, 0);
    let mut at = 4;
    let mut sections = Vec::new();
    for _ in 0..count {
        let length = u64_at(body, at + 8) as usize;
        sections.push(Section {
            kind: u32_at(body, at) as u16,
            version: (u32_at(body, at) >> 16) as u16,
            flags: u32_at(body, at + 4),
            payload: body[at + 16..at + 16 + length].to_vec(),
        });
        at += 16 + length;
    }
    assert_eq!(at, body.len());
    sections
}

pub fn join_sections(sections: &[Section]) -> Vec<u8> {
    let mut body = (sections.len() as u32).to_le_bytes().to_vec();
    for section in sections {
        body.extend(section.kind.to_le_bytes());
        body.extend(section.version.to_le_bytes());
        body.extend(section.flags.to_le_bytes());
        body.extend((section.payload.len() as u64).to_le_bytes());
        body.extend(&section.payload);
    }
    body
}

/// An entry of the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub length: u64,
    pub checksum: u32,
}

pub fn split_manifest(body: &[u8]) -> Vec<Entry> {
    let count = u64_at(body, 0);
    let mut at = 8;
    let mut entries = Vec::new();
    for _ in 0..count {
        let length = u64_at(body, at) as usize;
        let name = String::from_utf8(body[at + 8..at + 8 + length].to_vec()).unwrap();
        at += 8 + length;
        entries.push(Entry {
            name,
            length: u64_at(body, at),
            checksum: u32_at(body, at + 8),
        });
        at += 12;
    }
    assert_eq!(at, body.len());
    entries
}

pub fn join_manifest(entries: &[Entry]) -> Vec<u8> {
    let mut body = (entries.len() as u64).to_le_bytes().to_vec();
    for entry in entries {
        body.extend((entry.name.len() as u64).to_le_bytes());
        body.extend(entry.name.as_bytes());
        body.extend(entry.length.to_le_bytes());
        body.extend(entry.checksum.to_le_bytes());
    }
    body
}

/// Puts another body into the objects file and mends every checksum that is
/// then wrong: the file's own and the manifest's.
pub fn replace_objects(dir: &Path, body: Vec<u8>) {
    let path = dir.join("objects");
    let mut objects = Enveloped::read(&path);
    objects.body = body;
    let file = objects.seal();
    fs::write(&path, &file).unwrap();

    let path = dir.join("manifest");
    let mut manifest = Enveloped::read(&path);
    let mut entries = split_manifest(&manifest.body);
    entries[0].length = file.len() as u64;
    entries[0].checksum = crc32(&file);
    manifest.body = join_manifest(&entries);
    fs::write(&path, manifest.seal()).unwrap();
}

/// CRC-32 as in IEEE 802.3, bit by bit.
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
