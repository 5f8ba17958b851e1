//! Finding files again: whether they are still what they were, and opening
//! them.

use std::fs::Metadata;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use icecore_images::ByteString;
use icecore_images::files::kind_of_mode;
use icecore_images::regular::FileRef;
use rustix::fs::{CWD, Mode, OFlags};

use super::RestoreContext;
use super::ghost::Ghosts;
use crate::blocker::{Obstacle, Place};
use crate::kernel::build_id;

/// What of a file must be as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// Its contents: size and modification time, or the build id.
    Contents,
    /// What was there: it is only appended to, and may have grown.
    Prefix,
    /// Only that it exists and is of the same kind.
    Kind,
}

/// Notes an obstacle if `file` is not there or not what it was. A file that
/// is held many times is complained about once.
pub(crate) fn check(ctx: &mut RestoreContext<'_>, file: &FileRef, check: Check) {
    if file.ghost.is_some() {
        return;
    }
    let Some((problem, help)) = problem(file, check) else {
        return;
    };
    let obstacle = Obstacle {
        place: Place::Path {
            path: file.path.to_string(),
        },
        problem,
        help,
    };
    if !ctx.obstacles.contains(&obstacle) {
        ctx.obstacles.push(obstacle);
    }
}

/// Its path as this operating system takes it.
pub(crate) fn path(file: &FileRef) -> &Path {
    as_path(&file.path)
}

/// Bytes as a path.
pub(super) fn as_path(bytes: &ByteString) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(&bytes.0))
}

fn problem(file: &FileRef, check: Check) -> Option<(String, Option<String>)> {
    let meta = match find(file) {
        Ok(meta) => meta,
        Err(e) => {
            let help = format!("bring back the {} of the dump", kind_of_mode(file.mode));
            return Some((format!("cannot be found: {e}"), Some(help)));
        }
    };
    let (was, is) = (kind_of_mode(file.mode), kind_of_mode(meta.mode()));
    if was != is {
        let help = format!("bring back the {was}");
        return Some((format!("is a {is} now and was a {was}"), Some(help)));
    }
    match check {
        Check::Kind => None,
        _ if !meta.is_file() => None,
        Check::Prefix if meta.size() >= file.size => None,
        _ => changed(file, &meta),
    }
}

/// Follows links, unless the link itself is meant.
fn find(file: &FileRef) -> std::io::Result<Metadata> {
    if !file.path.0.starts_with(b"/") {
        return Err(std::io::Error::other("not an absolute path"));
    }
    match kind_of_mode(file.mode) {
        "symbolic link" => std::fs::symlink_metadata(path(file)),
        _ => std::fs::metadata(path(file)),
    }
}

/// A build id vouches for contents whatever the modification time says: the
/// same program installed elsewhere is the same program.
fn changed(file: &FileRef, meta: &Metadata) -> Option<(String, Option<String>)> {
    let help = "bring back the file as it was at the dump".to_owned();
    if meta.size() != file.size {
        let problem = format!("has {} bytes now and had {}", meta.size(), file.size);
        let grown = meta.size() > file.size && file.build_id.is_none();
        return Some((
            problem,
            Some(if grown { cut_back(file, &help) } else { help }),
        ));
    }
    if let Some(was) = &file.build_id {
        let is = std::fs::File::open(path(file))
            .ok()
            .and_then(|open| build_id::read(&open));
        let same = is.as_deref() == Some(&was.0);
        return (!same).then(|| {
            (
                "is another build now: its build id differs".to_owned(),
                Some(help),
            )
        });
    }
    let now = meta.mtime().saturating_mul(1_000_000_000) + meta.mtime_nsec();
    (now != file.mtime_ns).then(|| {
        let (was, is) = (seconds(file.mtime_ns), seconds(now));
        let help = format!(
            "{help}, or, if its contents are the same: touch -d @{was} {}",
            shell_word(&file.path.0)
        );
        let problem = format!("was modified since the dump (modification time @{is}, was @{was})");
        (problem, Some(help))
    })
}

/// What a job wrote after the snapshot it goes back to is written again.
fn cut_back(file: &FileRef, help: &str) -> String {
    let (size, was, name) = (file.size, seconds(file.mtime_ns), shell_word(&file.path.0));
    format!(
        "{help}, or, if it has only grown since: truncate -s {size} {name} && touch -d @{was} {name}"
    )
}

/// A path as a shell reads it back, quoted where that needs quotes.
fn shell_word(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    match path.chars().all(plain) {
        true => path.into_owned(),
        false => format!("'{}'", path.replace('\'', r"'\''")),
    }
}

/// Seconds since the epoch with nine digits of a fraction.
fn seconds(ns: i64) -> String {
    let (s, ns) = (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    format!("{s}.{ns:09}")
}

/// Opens `file`, by its name or from the image, with these flags (access mode
/// included, O_CLOEXEC added). Never creates or truncates anything.
pub(crate) fn open(ghosts: &Ghosts, file: &FileRef, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mut flags = flags & !(OFlags::CREATE | OFlags::EXCL | OFlags::TRUNC) | OFlags::CLOEXEC;
    if flags.contains(OFlags::TMPFILE) {
        // It is there already; O_DIRECTORY, a part of O_TMPFILE, goes too.
        flags -= OFlags::TMPFILE;
    }
    match file.ghost {
        Some(id) => ghosts.reopen(id, flags),
        None => rustix::fs::openat(CWD, path(file), flags | OFlags::NOCTTY, Mode::empty()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn paths_are_quoted_where_a_shell_wants_it() {
        assert_eq!(super::shell_word(b"/var/a-b.c"), "/var/a-b.c");
        assert_eq!(super::shell_word(b"/it's a"), r"'/it'\''s a'");
    }

    use super::*;

    fn reference(path: &Path) -> FileRef {
        let meta = std::fs::metadata(path).unwrap();
        FileRef {
            path: path.as_os_str().as_bytes().into(),
            mode: meta.mode(),
            size: meta.size(),
            mtime_ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
            device: meta.dev(),
            inode: meta.ino(),
            build_id: None,
            ghost: None,
        }
    }

    #[test]
    fn an_unchanged_file_is_fine_and_every_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "abc").unwrap();
        let file = reference(&path);
        assert_eq!(problem(&file, Check::Contents), None);

        let old = FileRef {
            mtime_ns: 1_500_000_001,
            ..file.clone()
        };
        let (text, help) = problem(&old, Check::Contents).unwrap();
        assert!(text.contains("was @1.500000001"), "{text}");
        assert!(help.unwrap().contains("touch -d @1.500000001"));
        assert_eq!(problem(&old, Check::Kind), None);

        std::fs::write(&path, "abcd").unwrap();
        let (text, help) = problem(&file, Check::Contents).unwrap();
        assert_eq!(text, "has 4 bytes now and had 3");
        assert!(help.unwrap().contains("truncate -s 3 "));
        assert_eq!(problem(&file, Check::Prefix), None);
        std::fs::write(&path, "a").unwrap();
        assert!(problem(&file, Check::Prefix).is_some());

        std::fs::remove_file(&path).unwrap();
        assert!(
            problem(&file, Check::Kind)
                .unwrap()
                .0
                .starts_with("cannot be found")
        );
        std::fs::create_dir(&path).unwrap();
        let (text, _) = problem(&file, Check::Kind).unwrap();
        assert_eq!(text, "is a directory now and was a regular file");
    }
}
