//! The envelope: the fixed-width header of every image file but raw pages,
//! outside the codec, so that a file of another kind, version or machine is
//! recognised without decoding it.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic |
//! | 8 | 2 | format version, major |
//! | 10 | 2 | format version, minor |
//! | 12 | 2 | kind |
//! | 14 | 2 | architecture (ELF machine number) |
//! | 16 | 16 | id of the image |
//! | 32 | 8 | length of the body |
//! | 40 | 4 | CRC-32 of bytes 0 to 39 and the body |
//! | 44 | | body |
//!
//! All integers are little-endian.

use std::fmt;

/// Bytes of an envelope.
pub const ENVELOPE_SIZE: usize = 44;

/// First bytes of every file.
pub const MAGIC: [u8; 8] = *b"ICECORE\0";

/// The format version this crate writes: a reader accepts its major, and of a
/// newer minor whatever is marked optional.
pub const VERSION: (u16, u16) = (1, 0);

/// EM_X86_64.
pub const ARCHITECTURE: u16 = 62;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The list of files that makes a directory an image.
    Manifest,
    /// All metadata.
    Objects,
}

impl Kind {
    /// Its number on disk.
    pub fn code(self) -> u16 {
        match self {
            Kind::Manifest => 1,
            Kind::Objects => 2,
        }
    }

    /// The largest body a reader accepts, bytes.
    pub const fn cap(self) -> u64 {
        match self {
            Kind::Manifest => 1 << 20,
            Kind::Objects => 1 << 28,
        }
    }
}

/// The random id that all files of an image carry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct ImageId(pub [u8; 16]);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl ImageId {
    /// A fresh one. `RandomState` is keyed by the operating system's random
    /// numbers; the id tells images apart, it guards nothing.
    pub(crate) fn random() -> Self {
        use std::hash::BuildHasher;
        let state = std::hash::RandomState::new();
        let half = |n: u8| state.hash_one(n).to_le_bytes();
        let mut id = [0; 16];
        id[..8].copy_from_slice(&half(0));
        id[8..].copy_from_slice(&half(1));
        Self(id)
    }
}

/// What is wrong with an envelope or with what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Too short for an envelope, or other first bytes.
    #[error("not an icecore image file")]
    Magic,
    /// A version this reader does not know.
    #[error("image format {major}.{minor} is not supported (this icecore reads {}.x)", VERSION.0)]
    Version {
        /// Major.
        major: u16,
        /// Minor.
        minor: u16,
    },
    /// A file of another kind under this name.
    #[error("a file of kind {found} where kind {} belongs", .expected.code())]
    Kind {
        /// What the file says.
        found: u16,
        /// What it should be.
        expected: Kind,
    },
    /// Made on another architecture.
    #[error("made on {}, this icecore restores x86_64", machine_name(*.machine))]
    Architecture {
        /// ELF machine number.
        machine: u16,
    },
    /// Larger than any image's.
    #[error("{length} bytes long, more than the {cap} allowed")]
    TooLarge {
        /// What the envelope says.
        length: u64,
        /// The limit.
        cap: u64,
    },
    /// The file is longer or shorter than its envelope says.
    #[error("{found} bytes long instead of {expected}")]
    Length {
        /// What the envelope says, envelope included.
        expected: u64,
        /// What the file has.
        found: u64,
    },
    /// Damaged.
    #[error("checksum does not match: the file is damaged")]
    Checksum,
}

fn machine_name(machine: u16) -> String {
    match machine {
        3 => "i386".into(),
        40 => "arm".into(),
        183 => "aarch64".into(),
        243 => "riscv64".into(),
        21 => "ppc64".into(),
        22 => "s390x".into(),
        258 => "loongarch64".into(),
        n => format!("machine {n}"),
    }
}

/// Puts a body into an envelope.
pub(crate) fn seal(kind: Kind, id: ImageId, body: &[u8]) -> Vec<u8> {
    let mut file = Vec::with_capacity(ENVELOPE_SIZE + body.len());
    file.extend_from_slice(&MAGIC);
    file.extend_from_slice(&VERSION.0.to_le_bytes());
    file.extend_from_slice(&VERSION.1.to_le_bytes());
    file.extend_from_slice(&kind.code().to_le_bytes());
    file.extend_from_slice(&ARCHITECTURE.to_le_bytes());
    file.extend_from_slice(&id.0);
    file.extend_from_slice(&(body.len() as u64).to_le_bytes());
    let checksum = checksum(&file, body);
    file.extend_from_slice(&checksum.to_le_bytes());
    file.extend_from_slice(body);
    file
}

/// A header whose claims have been checked as far as they can be without the
/// body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) id: ImageId,
    pub(crate) version: (u16, u16),
    pub(crate) length: u64,
}

impl Header {
    /// Checks, in this order: magic, version, kind, architecture, size cap.
    pub(crate) fn parse(kind: Kind, bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let Some((header, _)) = bytes.split_first_chunk::<ENVELOPE_SIZE>() else {
            return Err(EnvelopeError::Magic);
        };
        if header[..8] != MAGIC {
            return Err(EnvelopeError::Magic);
        }
        let (major, minor) = (u16_at(header, 8), u16_at(header, 10));
        if major != VERSION.0 {
            return Err(EnvelopeError::Version { major, minor });
        }
        let found = u16_at(header, 12);
        if found != kind.code() {
            let expected = kind;
            return Err(EnvelopeError::Kind { found, expected });
        }
        let machine = u16_at(header, 14);
        if machine != ARCHITECTURE {
            return Err(EnvelopeError::Architecture { machine });
        }
        let (length, cap) = (u64_at(header, 32), kind.cap());
        if length > cap {
            return Err(EnvelopeError::TooLarge { length, cap });
        }
        let mut id = ImageId::default();
        id.0.copy_from_slice(&header[16..32]);
        let version = (major, minor);
        Ok(Self {
            id,
            version,
            length,
        })
    }

    /// The body of a whole file, once its length and checksum are right.
    pub(crate) fn body(self, file: &[u8]) -> Result<&[u8], EnvelopeError> {
        let expected = ENVELOPE_SIZE as u64 + self.length;
        let found = file.len() as u64;
        let Some((header, body)) = file.split_first_chunk::<ENVELOPE_SIZE>() else {
            return Err(EnvelopeError::Length { expected, found });
        };
        if found != expected {
            return Err(EnvelopeError::Length { expected, found });
        }
        if u32_at(header, 40) != checksum(&header[..40], body) {
            return Err(EnvelopeError::Checksum);
        }
        Ok(body)
    }
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(body);
    crc.finalize()
}

fn u16_at(bytes: &[u8; ENVELOPE_SIZE], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8; ENVELOPE_SIZE], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8; ENVELOPE_SIZE], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
