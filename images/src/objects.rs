//! The objects file's body: one section for each field of [`Checkpoint`].
//!
//! A body is the number of sections (u32) and the sections one after the
//! other. A section is a header of 16 bytes and its payload:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 2 | kind |
//! | 2 | 2 | version of the payload |
//! | 4 | 4 | flags: bit 0 = a reader that does not know the kind may skip it |
//! | 8 | 8 | length of the payload |
//! | 16 | | payload: the field, encoded with bincode |
//!
//! Growth: a new kind of section is a new minor version; its default for
//! images that lack it is stated in the table of sections below. A payload whose
//! layout changes gets the next section version, and its decoder keeps reading
//! the old ones.

use crate::checkpoint::Checkpoint;
use crate::codec::{self, CodecError};

/// Bytes of a section's header.
const HEADER_SIZE: usize = 16;

/// Sections a body may have.
const MAX_SECTIONS: u32 = 1024;

/// Flag: may be skipped by a reader that does not know the kind.
const OPTIONAL: u32 = 1;

/// What is wrong with an objects file's body.
#[derive(Debug, thiserror::Error)]
pub enum SectionError {
    /// The body ends before its last section does.
    #[error("section {index} reaches beyond the end of the file")]
    Truncated {
        /// Which one, counted from 0.
        index: u32,
    },
    /// More sections than any image has.
    #[error("{count} sections")]
    Count {
        /// What the file says.
        count: u32,
    },
    /// Bytes after the last section.
    #[error("{bytes} bytes after the last section")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A section of a kind this reader does not know and must not skip.
    #[error("section of unknown kind {kind}: the image was made by a newer icecore")]
    Unknown {
        /// Its kind.
        kind: u16,
    },
    /// A section in a layout this reader does not know.
    #[error("section \"{name}\" has layout {version}: the image was made by a newer icecore")]
    Version {
        /// The field.
        name: &'static str,
        /// Version of its payload.
        version: u16,
    },
    /// Two sections of one kind.
    #[error("section \"{name}\" occurs twice")]
    Twice {
        /// The field.
        name: &'static str,
    },
    /// A section without which there is no checkpoint.
    #[error("section \"{name}\" is missing")]
    Missing {
        /// The field.
        name: &'static str,
    },
    /// A payload that is no value of its field.
    #[error("section \"{name}\" cannot be decoded")]
    Decode {
        /// The field.
        name: &'static str,
        /// Why.
        #[source]
        source: CodecError,
    },
}

struct Section<'a> {
    kind: u16,
    version: u16,
    flags: u32,
    payload: &'a [u8],
}

/// Splits a body into its sections.
fn split(mut body: &[u8]) -> Result<Vec<Section<'_>>, SectionError> {
    let count = match body.split_first_chunk::<4>() {
        Some((count, rest)) => {
            body = rest;
            u32::from_le_bytes(*count)
        }
        None => return Err(SectionError::Truncated { index: 0 }),
    };
    if count > MAX_SECTIONS {
        return Err(SectionError::Count { count });
    }
    let mut sections = Vec::new();
    for index in 0..count {
        let (section, rest) = first(body).ok_or(SectionError::Truncated { index })?;
        sections.push(section);
        body = rest;
    }
    match body.len() {
        0 => Ok(sections),
        bytes => Err(SectionError::Trailing { bytes }),
    }
}

fn first(body: &[u8]) -> Option<(Section<'_>, &[u8])> {
    let (kind, rest) = body.split_first_chunk::<2>()?;
    let (version, rest) = rest.split_first_chunk::<2>()?;
    let (flags, rest) = rest.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (payload, rest) = rest.split_at_checked(length)?;
    let section = Section {
        kind: u16::from_le_bytes(*kind),
        version: u16::from_le_bytes(*version),
        flags: u32::from_le_bytes(*flags),
        payload,
    };
    Some((section, rest))
}

fn put(body: &mut Vec<u8>, kind: u16, version: u16, payload: &[u8]) {
    body.reserve(HEADER_SIZE + payload.len());
    body.extend_from_slice(&kind.to_le_bytes());
    body.extend_from_slice(&version.to_le_bytes());
    body.extend_from_slice(&0_u32.to_le_bytes());
    body.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    body.extend_from_slice(payload);
}

/// What an image that lacks the section means.
macro_rules! or_default {
    (required, $name:expr) => {
        Err(SectionError::Missing { name: $name })
    };
    (empty, $name:expr) => {
        Ok(Default::default())
    };
}

macro_rules! sections {
    ($($kind:literal $version:literal $field:ident $absent:ident;)+) => {
        /// Encodes every field into its section.
        pub fn encode(
            checkpoint: &Checkpoint,
        ) -> Result<Vec<u8>, bincode::error::EncodeError> {
            const COUNT: u32 = [$($kind),+].len() as u32;
            let mut body = COUNT.to_le_bytes().to_vec();
            $(put(&mut body, $kind, $version, &codec::encode(&checkpoint.$field)?);)+
            Ok(body)
        }

        /// Decodes a body; sections may come in any order.
        pub fn decode(body: &[u8]) -> Result<Checkpoint, SectionError> {
            $(let mut $field = None;)+
            for section in split(body)? {
                match section.kind {
                    $($kind => {
                        let name = stringify!($field);
                        if section.version != $version {
                            let version = section.version;
                            return Err(SectionError::Version { name, version });
                        }
                        let value = codec::decode(section.payload)
                            .map_err(|source| SectionError::Decode { name, source })?;
                        if $field.replace(value).is_some() {
                            return Err(SectionError::Twice { name });
                        }
                    })+
                    _ if section.flags & OPTIONAL != 0 => {}
                    kind => return Err(SectionError::Unknown { kind }),
                }
            }
            Ok(Checkpoint {
                $($field: match $field {
                    Some(value) => value,
                    None => or_default!($absent, stringify!($field))?,
                },)+
            })
        }
    };
}

// Kind, version, field, and what its absence means. Kinds are never reused.
sections! {
    1  1 machine         required;
    2  1 clocks          required;
    3  1 tasks           required;
    4  1 mms             required;
    5  1 fd_tables       required;
    6  1 fs              required;
    7  1 sig_hands       required;
    8  1 files           empty;
    9  1 pipes           empty;
    10 1 ghosts          empty;
    11 1 shmems          empty;
    12 1 seccomp_filters empty;
    13 1 page_files      empty;
    20 1 cgroups         empty;
}
