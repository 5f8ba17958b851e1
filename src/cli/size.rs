//! Sizes as people write them.

/// Bytes from `512`, `64K`, `1M`, `2G`: binary multiples, as CRIU reads them.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "not a size: write bytes, or a number with K, M or G".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn multiples_are_binary() {
        assert_eq!(parse("0"), Ok(0));
        assert_eq!(parse("512"), Ok(512));
        assert_eq!(parse("64k"), Ok(64 << 10));
        assert_eq!(parse("1M"), Ok(1 << 20));
        assert_eq!(parse("3G"), Ok(3 << 30));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "M", "1.5M", "-1", "1MB", "99999999999G"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
