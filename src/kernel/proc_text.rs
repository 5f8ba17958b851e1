//! What the line-oriented files of /proc have in common: `Key:\tvalue`.

use std::io;
use std::str::FromStr;

use rustix::fs::{Mode, OFlags};

/// A file of /proc that does not read as this kernel interface should.
pub(crate) fn malformed(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{what} is missing or malformed"),
    )
}

/// `/proc/ID/NAME`, whole; `id` may be any live thread of a task, so that it
/// works when the thread-group leader has ended.
///
/// The size that such a file reports is 0, which makes the standard library
/// feel its way: this takes an open, two reads and a close.
pub(crate) fn read(id: u32, name: &str) -> io::Result<Vec<u8>> {
    let path = format!("/proc/{id}/{name}");
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = vec![0; ENOUGH];
    let mut len = 0;
    loop {
        match rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut bytes[len..]))? {
            0 => break,
            more => len += more,
        }
        if len == bytes.len() {
            bytes.resize(2 * len, 0);
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// More than `status` and its like take.
const ENOUGH: usize = 8192;

/// Like [`read`], with `None` for a file that this kernel does not have.
pub(crate) fn read_if_there(id: u32, name: &str) -> io::Result<Option<Vec<u8>>> {
    match read(id, name) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        // It ended between the two.
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The pids of all processes.
pub(crate) fn processes() -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        pids.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<u32>().ok()),
        );
    }
    Ok(pids)
}

/// The lines of a file.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n').filter(|line| !line.is_empty())
}

/// Undoes mountinfo's octal escapes.
pub(crate) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| first == b'\\');
        let value = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match value {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

/// The value behind `key:` in `text`, without blanks around it.
pub(crate) fn field<'a>(text: &'a [u8], key: &str) -> Option<&'a [u8]> {
    lines(text).find_map(|line| {
        let rest = line.strip_prefix(key.as_bytes())?;
        Some(rest.strip_prefix(b":")?.trim_ascii())
    })
}

/// The words of a value.
pub(crate) fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

/// A decimal number.
pub(crate) fn number<T: FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word.trim_ascii()).ok()?.parse().ok()
}

/// A hexadecimal number, with or without `0x`.
pub(crate) fn hex(word: &[u8]) -> Option<u64> {
    let word = std::str::from_utf8(word.trim_ascii()).ok()?;
    u64::from_str_radix(word.strip_prefix("0x").unwrap_or(word), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_field_by_its_whole_key() {
        let text = b"SigPnd2:\t5\nSigPnd:\t00ff\nUid:\t1\t2\n";
        assert_eq!(field(text, "SigPnd"), Some(&b"00ff"[..]));
        assert_eq!(hex(field(text, "SigPnd").unwrap_or_default()), Some(255));
        assert_eq!(field(text, "Sig"), None);
        let uids: Vec<_> = words(b"1\t2").filter_map(number::<u32>).collect();
        assert_eq!(uids, [1, 2]);
    }

    #[test]
    fn a_missing_file_is_none() {
        let me = std::process::id();
        assert!(matches!(read_if_there(me, "no_such_file"), Ok(None)));
        assert!(matches!(read_if_there(me, "status"), Ok(Some(_))));
    }
}
