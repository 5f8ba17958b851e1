//! What a keeper and its callers say to each other, one packet at a time over
//! a socket of type SOCK_SEQPACKET.
//!
//! | offset | bytes | a request | an answer |
//! |---|---|---|---|
//! | 0 | 4 | [`MAGIC`] | [`MAGIC`] |
//! | 4 | 4 | what is asked for | [`OK`], or why not |
//! | 8 | 16 | id of the image | id of the image |
//! | 24 | 8 | an argument | a value |
//!
//! An answer to [`LIST`] goes on with the keeper's pid, who has taken the
//! descriptors (u32 each; 0: nobody) and how long it will wait (u64 seconds;
//! `u64::MAX`: for ever), then the names of all that is kept (u32 each). An
//! answer to [`TAKE`] goes on with the names of the descriptors that come with
//! it.

/// First bytes of every packet: `ICK1`.
pub const MAGIC: u32 = 0x314b_4349;
/// Bytes before whatever else an answer holds.
pub const HEADER: usize = 32;
/// Bytes of a request.
pub const REQUEST: usize = HEADER;
/// Bytes of an answer to [`LIST`] before the names.
pub const LIST_HEADER: usize = HEADER + 16;
/// Descriptors that one packet takes: SCM_MAX_FD is 253.
pub const BATCH: usize = 250;

/// What is kept?
pub const LIST: u32 = 1;
/// Duplicates, please, from the one at this place in the list on. They are the
/// caller's until it hangs up.
pub const TAKE: u32 = 2;
/// The task with this pid is about to run; from then on they are its own.
pub const READY: u32 = 3;
/// It runs: the keeper may go.
pub const DONE: u32 = 4;
/// Let everything go.
pub const RELEASE: u32 = 5;

/// It is so.
pub const OK: u32 = 0;
/// The caller is neither the owner nor root.
pub const DENIED: u32 = 1;
/// The image is another.
pub const FOREIGN: u32 = 2;
/// Somebody else has taken them; the value is their pid.
pub const LENT: u32 = 3;
/// The request makes no sense.
pub const BAD: u32 = 4;

/// A packet without what may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What is asked for, or what came of it.
    pub word: u32,
    /// Id of the image.
    pub image: [u8; 16],
    /// An argument or a value.
    pub value: u64,
}

impl Header {
    /// As it is sent.
    pub fn bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.word.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.image);
        bytes[24..].copy_from_slice(&self.value.to_le_bytes());
        bytes
    }

    /// What was received; `None`: something else.
    pub fn of(packet: &[u8]) -> Option<Self> {
        let bytes = packet.first_chunk::<HEADER>()?;
        let word = |at: usize| u32_at(bytes, at);
        (word(0)? == MAGIC).then_some(())?;
        Some(Self {
            word: word(4)?,
            image: *bytes[8..].first_chunk()?,
            value: u64_at(bytes, 24)?,
        })
    }
}

/// The number at `at`.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The number at `at`.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_what_was_sent() {
        let header = Header {
            word: TAKE,
            image: *b"0123456789abcdef",
            value: 250,
        };
        assert_eq!(Header::of(&header.bytes()), Some(header));
        assert_eq!(Header::of(&header.bytes()[1..]), None);
        assert_eq!(Header::of(&[0; HEADER]), None);
    }
}
