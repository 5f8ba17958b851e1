//! Files and directories without a name.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::harness::{Stage, Victim};
use crate::regular::{open_at, text};
use crate::sys::same;

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("ghost", ghost)
            .allow("fd/*/link")
            .allow("fd/*/flags"),
        Victim::new("ghost-linked", linked).allow("fd/*/link"),
        Victim::new("ghost-directory", directory),
        Victim::new("ghost-homeless", homeless).allow("fd/*/link"),
        Victim::refused("ghost-large", "more than the limit of 65536", large)
            .dump_args(&["--ghost-limit", "64K"]),
        Victim::refused(
            "ghost-elsewhere",
            "other name that icecore cannot find",
            elsewhere,
        ),
    ]
}

/// Deleted, sparse, opened twice; O_TMPFILE; the directory stays as it was.
fn ghost(stage: &mut Stage) -> Result<(), String> {
    // The stage's own files come and go in the directory above.
    let dir = stage.dir().join("home");
    fs::create_dir(&dir).map_err(text("mkdir"))?;
    let path = dir.join("gone");
    let mut file = File::from(open_at(&path, OFlags::RDWR | OFlags::CREATE)?);
    let reader = File::open(&path).map_err(text("open"))?;
    file.set_len(8 << 20).map_err(text("truncate"))?;
    file.write_all_at(b"start", 0).map_err(text("write"))?;
    file.write_all_at(b"end", (8 << 20) - 3)
        .map_err(text("write"))?;
    file.set_permissions(fs::Permissions::from_mode(0o640))
        .map_err(text("chmod"))?;
    file.seek(SeekFrom::Start(3)).map_err(text("seek"))?;
    fs::remove_file(&path).map_err(text("unlink"))?;
    let mut never = File::from(open_at(&dir, OFlags::TMPFILE | OFlags::RDWR)?);
    never
        .write_all(b"never had a name")
        .map_err(text("write"))?;
    let looks = |file: &File| -> Result<_, String> {
        let meta = file.metadata().map_err(text("stat"))?;
        Ok((
            meta.mode(),
            meta.size(),
            meta.nlink(),
            meta.uid(),
            meta.mtime(),
            meta.mtime_nsec(),
        ))
    };
    let (was, home) = (
        looks(&file)?,
        looks(&File::open(&dir).map_err(text("open"))?)?,
    );
    while stage.next()? {
        same("metadata", &looks(&file)?, &was)?;
        same(
            "its directory",
            &looks(&File::open(&dir).map_err(text("open"))?)?,
            &home,
        )?;
        let entries = fs::read_dir(&dir).map_err(text("readdir"))?.count();
        same("entries of its directory", &entries, &0)?;
        let mut bytes = [0; 5];
        reader.read_exact_at(&mut bytes, 0).map_err(text("read"))?;
        same("contents", &&bytes, &b"start")?;
        reader
            .read_exact_at(&mut bytes[..3], (8 << 20) - 3)
            .map_err(text("read"))?;
        same("contents", &&bytes[..3], &&b"end"[..])?;
        let blocks = reader.metadata().map_err(text("stat"))?.blocks();
        if blocks > 64 {
            return Err(format!("{blocks} blocks are allocated: holes were filled"));
        }
        same(
            "position",
            &file.stream_position().map_err(text("tell"))?,
            &3,
        )?;
        let inodes = [&file, &reader].map(|f| f.metadata().map(|m| m.ino()).unwrap_or(0));
        same("inode of the second open", &inodes[1], &inodes[0])?;
        let mut all = String::new();
        never.rewind().map_err(text("rewind"))?;
        never.read_to_string(&mut all).map_err(text("read"))?;
        same("contents", &&all[..], &"never had a name")?;
    }
    Ok(())
}

/// The name it was opened by is gone, but it has another in the same directory.
fn linked(stage: &mut Stage) -> Result<(), String> {
    let (old, new) = (stage.dir().join("old"), stage.dir().join("new"));
    fs::write(&old, "linked").map_err(text("write"))?;
    let file = File::open(&old).map_err(text("open"))?;
    fs::hard_link(&old, &new).map_err(text("link"))?;
    fs::remove_file(&old).map_err(text("unlink"))?;
    let mut file = Some(file);
    while stage.next()? {
        // After the first restore it is open by the name it was found by.
        let open = file.take().ok_or("no file")?;
        let (held, named) = (open.metadata(), fs::metadata(&new));
        let inode = |m: std::io::Result<fs::Metadata>| m.map(|m| m.ino()).map_err(text("stat"));
        same("inode", &inode(held)?, &inode(named)?)?;
        file = Some(open);
    }
    Ok(())
}

/// A working directory that was removed, and one that is open.
fn directory(stage: &mut Stage) -> Result<(), String> {
    let path = stage.dir().join("removed");
    fs::create_dir(&path).map_err(text("mkdir"))?;
    let open = File::open(&path).map_err(text("open"))?;
    std::env::set_current_dir(&path).map_err(text("chdir"))?;
    fs::remove_dir(&path).map_err(text("rmdir"))?;
    while stage.next()? {
        let held = open.metadata().map_err(text("stat"))?;
        let cwd = fs::metadata(".").map_err(text("stat"))?;
        same("links", &held.nlink(), &0)?;
        same("working directory", &cwd.ino(), &held.ino())?;
        if File::create("here").is_ok() {
            return Err("a file could be created in a removed directory".to_owned());
        }
        same("path", &path.exists(), &false)?;
    }
    Ok(())
}

/// Deleted together with the directories above it.
fn homeless(stage: &mut Stage) -> Result<(), String> {
    let top = stage.dir().join("a");
    fs::create_dir_all(top.join("b/c")).map_err(text("mkdir"))?;
    fs::write(top.join("b/c/file"), "homeless").map_err(text("write"))?;
    let file = File::open(top.join("b/c/file")).map_err(text("open"))?;
    fs::remove_dir_all(&top).map_err(text("remove"))?;
    while stage.next()? {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 0).map_err(text("read"))?;
        same("contents", &&bytes, &b"homeless")?;
        same("links", &file.metadata().map_err(text("stat"))?.nlink(), &0)?;
        same("directory", &top.exists(), &false)?;
    }
    Ok(())
}

fn large(stage: &mut Stage) -> Result<(), String> {
    let file = unlinked(&stage.dir().join("large"))?;
    file.write_all_at(&[1; 1 << 20], 0).map_err(text("write"))?;
    while stage.next()? {
        same(
            "length",
            &file.metadata().map_err(text("stat"))?.len(),
            &(1 << 20),
        )?;
    }
    Ok(())
}

fn unlinked(path: &Path) -> Result<File, String> {
    let file = File::from(open_at(path, OFlags::RDWR | OFlags::CREATE)?);
    fs::remove_file(path).map_err(text("unlink"))?;
    Ok(file)
}

/// Its other name lies where nobody would look.
fn elsewhere(stage: &mut Stage) -> Result<(), String> {
    let path = stage.dir().join("one");
    let file = File::create(&path).map_err(text("create"))?;
    fs::create_dir(stage.dir().join("far")).map_err(text("mkdir"))?;
    fs::hard_link(&path, stage.dir().join("far/two")).map_err(text("link"))?;
    fs::remove_file(&path).map_err(text("unlink"))?;
    while stage.next()? {
        assert_ne!(file.as_raw_fd(), -1);
    }
    Ok(())
}
