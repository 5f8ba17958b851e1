//! `/proc/TID/limits`: resource limits without the privilege that prlimit(2)
//! asks for on another user's task.

use std::io;

use icecore_images::limits::Rlimit;

use super::proc_text::{self, lines, malformed, number};

/// Names in the kernel's table, by RLIMIT_* number.
pub(crate) const NAMES: [&str; 16] = [
    "Max cpu time",
    "Max file size",
    "Max data size",
    "Max stack size",
    "Max core file size",
    "Max resident set",
    "Max processes",
    "Max open files",
    "Max locked memory",
    "Max address space",
    "Max file locks",
    "Max pending signals",
    "Max msgqueue size",
    "Max nice priority",
    "Max realtime priority",
    "Max realtime timeout",
];

/// The limits of a task, by RLIMIT_* number.
pub(crate) fn read(tid: u32) -> io::Result<Vec<Rlimit>> {
    parse(&proc_text::read(tid, "limits")?)
}

fn parse(text: &[u8]) -> io::Result<Vec<Rlimit>> {
    NAMES
        .iter()
        .map(|name| {
            let line = lines(text).find_map(|line| line.strip_prefix(name.as_bytes()));
            let mut values = proc_text::words(line.ok_or_else(|| malformed(name))?).map(limit);
            match (values.next().flatten(), values.next().flatten()) {
                (Some(soft), Some(hard)) => Ok(Rlimit { soft, hard }),
                _ => Err(malformed(name)),
            }
        })
        .collect()
}

fn limit(word: &[u8]) -> Option<u64> {
    match word {
        b"unlimited" => Some(u64::MAX),
        _ => number(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_getrlimit() -> io::Result<()> {
        let limits = read(std::process::id())?;
        assert_eq!(limits.len(), NAMES.len());
        let nofile = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let read = &limits[libc::RLIMIT_NOFILE as usize];
        assert_eq!(read.soft, nofile.current.unwrap_or(u64::MAX));
        assert_eq!(read.hard, nofile.maximum.unwrap_or(u64::MAX));
        Ok(())
    }

    #[test]
    fn a_missing_limit_is_named() {
        let Err(error) = parse(b"Max cpu time  unlimited 5 seconds\n") else {
            unreachable!("fifteen limits are missing")
        };
        assert!(error.to_string().contains("Max file size"), "{error}");
    }
}
