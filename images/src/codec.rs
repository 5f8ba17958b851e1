//! The codec of bodies and sections: bincode 2 with little-endian fixed-width
//! integers, bounded, and used up to the last byte.

use bincode::config::{self, Configuration, Fixint, Limit, LittleEndian, NoLimit};
use serde::{Serialize, de::Deserialize};

use crate::envelope::Kind;

type Config<L> = Configuration<LittleEndian, Fixint, L>;

fn unlimited() -> Config<NoLimit> {
    config::standard()
        .with_little_endian()
        .with_fixed_int_encoding()
}

fn limited<const N: usize>() -> Config<Limit<N>> {
    unlimited().with_limit::<N>()
}

/// Bytes that are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The decoder gave up.
    #[error(transparent)]
    Decode(#[from] bincode::error::DecodeError),
    /// Something follows.
    #[error("{0} bytes too many")]
    Trailing(usize),
}

/// Encodes a value.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, bincode::error::EncodeError> {
    bincode::serde::encode_to_vec(value, unlimited())
}

/// Decodes a value from exactly these bytes.
///
/// bincode takes its limit at compile time and counts the memory a value
/// claims before its bytes are read; steps of sixteen keep what a small
/// section with a huge count can claim small.
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CodecError> {
    use bincode::serde::borrow_decode_from_slice as from_slice;
    const CAP: usize = 1 << 28;
    const _: () = assert!(CAP as u64 >= Kind::Objects.cap());
    let (value, used) = match bytes.len() {
        ..=0x1_0000 => from_slice(bytes, limited::<0x10_0000>()),
        0x1_0001..=0x10_0000 => from_slice(bytes, limited::<0x100_0000>()),
        _ => from_slice(bytes, limited::<{ 2 * CAP }>()),
    }?;
    match bytes.len() - used {
        0 => Ok(value),
        rest => Err(CodecError::Trailing(rest)),
    }
}
