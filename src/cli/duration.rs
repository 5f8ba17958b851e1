//! Durations as people write them.

use std::time::Duration;

/// `90`, `90s`, `5m`, `2h`, `7d`: seconds unless it says otherwise.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let unit = UNITS.iter().find(|(unit, _)| text.ends_with(*unit));
    let (digits, seconds) = match unit {
        Some((unit, seconds)) => (text.trim_end_matches(*unit), *seconds),
        None => (text, 1),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "not a duration: write seconds, or a number with s, m, h or d".to_owned())?;
    // Clocks must still be able to count to it.
    const LONGEST: u64 = 100 * 366 * 86_400;
    let seconds = number.checked_mul(seconds).filter(|&s| s <= LONGEST);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_understood() {
        for (text, seconds) in [
            ("0", 0),
            ("90", 90),
            ("90s", 90),
            ("5m", 300),
            ("2h", 7200),
            ("1d", 86_400),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "s", "1.5h", "-1", "1w", "99999999999d"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
