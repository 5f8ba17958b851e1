//! Byte strings of the kernel's: paths, names, contents.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes as the kernel gave them. Paths and names need not be UTF-8; shown to
/// people and in JSON control characters, backslashes and what is not UTF-8 are
/// escaped; on disk they are exact.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteString(pub Vec<u8>);

impl fmt::Debug for ByteString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl fmt::Display for ByteString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() || c == '\\' {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    write!(f, "{c}")?;
                }
            }
            for b in chunk.invalid() {
                write!(f, "\\x{b:02x}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for ByteString {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.collect_str(self)
        } else {
            s.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for ByteString {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = ByteString;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E: serde::de::Error>(self, v: &[u8]) -> Result<ByteString, E> {
                Ok(ByteString(v.to_vec()))
            }
            fn visit_byte_buf<E: serde::de::Error>(self, v: Vec<u8>) -> Result<ByteString, E> {
                Ok(ByteString(v))
            }
        }
        // Borrowed, so that a length is compared with what is there before
        // anything is allocated.
        d.deserialize_bytes(Visitor)
    }
}

impl From<&[u8]> for ByteString {
    fn from(b: &[u8]) -> Self {
        ByteString(b.to_vec())
    }
}

impl From<Vec<u8>> for ByteString {
    fn from(b: Vec<u8>) -> Self {
        ByteString(b)
    }
}

/// For fields that hold no text: in JSON two hexadecimal digits a byte, on disk
/// the bytes.
pub(crate) mod hex {
    use std::fmt::Write;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::ByteString;

    pub(crate) fn serialize<S: Serializer>(bytes: &ByteString, s: S) -> Result<S::Ok, S::Error> {
        if !s.is_human_readable() {
            return bytes.serialize(s);
        }
        let mut text = String::with_capacity(bytes.0.len() * 2);
        for byte in &bytes.0 {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        s.serialize_str(&text)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<ByteString, D::Error> {
        ByteString::deserialize(d)
    }
}

#[cfg(test)]
mod tests {
    use super::ByteString;

    #[test]
    fn what_is_shown_cannot_be_mistaken() {
        let shown = |bytes: &[u8]| ByteString::from(bytes).to_string();
        assert_eq!(shown("/tmp/plain é".as_bytes()), "/tmp/plain é");
        assert_eq!(shown(b"a\\nb"), "a\\\\nb");
        assert_eq!(shown(b"a\nb\x1b[1m"), "a\\nb\\u{1b}[1m");
        assert_eq!(shown(b"\xff\xfe"), "\\xff\\xfe");
    }
}
