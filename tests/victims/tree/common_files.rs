//! Descriptors, tables and directories that relatives have in common.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::family::{Relative, child, child_with, pipe};
use crate::harness::{Stage, Victim};
use crate::sys::{at, call, same, to};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("tree-offset", offset),
        Victim::new("tree-table", table),
        Victim::new("tree-fs", fs_struct),
        Victim::new("tree-pipe", pipes),
        Victim::new("tree-locks", locks).dump_args(&["-l"]),
    ]
}

/// Who reads moves the other's offset, too.
fn offset(stage: &mut Stage) -> Result<(), String> {
    let path = stage.dir().join("shared");
    fs::write(&path, [7; 4096]).map_err(|e| e.to_string())?;
    let mut file = File::open(&path).map_err(|e| e.to_string())?;
    let mut theirs = file.try_clone().map_err(|e| e.to_string())?;
    let mut relative = child(move || {
        Ok(Box::new(move || {
            theirs.read_exact(&mut [0; 10]).map_err(|e| e.to_string())
        }))
    })?;
    let mut expected = 0;
    while stage.next()? {
        relative.check()?;
        expected += 10;
        let position = file.stream_position().map_err(|e| e.to_string())?;
        same("offset", &position, &expected)?;
    }
    Ok(())
}

/// What one opens the other has, too.
fn table(stage: &mut Stage) -> Result<(), String> {
    let mut number = 100_u64;
    let mut relative = child_with(libc::CLONE_FILES, move || {
        Ok(Box::new(move || {
            number += 1;
            call("dup2", libc::SYS_dup2, &[2, number]).map(drop)
        }))
    })?;
    let mut expected = 100;
    while stage.next()? {
        relative.check()?;
        expected += 1;
        call("fcntl", libc::SYS_fcntl, &[expected, libc::F_GETFD as u64])?;
    }
    Ok(())
}

/// Where one goes the other goes, too.
fn fs_struct(stage: &mut Stage) -> Result<(), String> {
    let dir = stage.dir().join("inner");
    fs::create_dir(&dir).map_err(|e| e.to_string())?;
    let (here, there) = (stage.dir().to_owned(), dir.clone());
    let mut inside = false;
    let mut relative = child_with(libc::CLONE_FS, move || {
        Ok(Box::new(move || {
            inside = !inside;
            let to = if inside { &there } else { &here };
            std::env::set_current_dir(to).map_err(|e| e.to_string())
        }))
    })?;
    let mut inside = false;
    while stage.next()? {
        relative.check()?;
        inside = !inside;
        let expected = if inside { dir.as_path() } else { stage.dir() };
        let now = std::env::current_dir().map_err(|e| e.to_string())?;
        same("working directory", &now.as_path(), &expected)?;
    }
    Ok(())
}

/// What is on its way between two arrives.
fn pipes(stage: &mut Stage) -> Result<(), String> {
    let (mut read, mut write) = pipe()?;
    let event = call("eventfd2", libc::SYS_eventfd2, &[0, 0])?;
    let mut relative = child(move || {
        let mut send = move || {
            write.write_all(b"through").map_err(|e| e.to_string())?;
            call("write", libc::SYS_write, &[event, at(&5_u64), 8]).map(drop)
        };
        send()?;
        Ok(Box::new(send))
    })?;
    while stage.next()? {
        let (mut text, mut count) = ([0; 7], 0_u64);
        read.read_exact(&mut text).map_err(|e| e.to_string())?;
        same("through the pipe", &&text, &b"through")?;
        call("read", libc::SYS_read, &[event, to(&mut count), 8])?;
        same("events", &count, &5)?;
        relative.check()?;
    }
    Ok(())
}

/// `struct flock` of a byte: type, whence, start, length, pid.
fn lock_of(kind: i16, start: u64) -> [u64; 4] {
    [kind as u64, start, 1, 0]
}

fn lock(file: &File, start: u64) -> Result<(), String> {
    let lock = lock_of(libc::F_WRLCK as i16, start);
    let args = [file.as_raw_fd() as u64, libc::F_SETLK as u64, at(&lock)];
    call("lock", libc::SYS_fcntl, &args).map(drop)
}

/// Who has a lock on this byte.
fn holder(file: &File, start: u64) -> Result<u32, String> {
    let mut lock = lock_of(libc::F_WRLCK as i16, start);
    let args = [file.as_raw_fd() as u64, libc::F_GETLK as u64, to(&mut lock)];
    call("ask for a lock", libc::SYS_fcntl, &args)?;
    let free = lock[0] as u16 == libc::F_UNLCK as u16;
    Ok(if free { 0 } else { lock[3] as u32 })
}

fn open(path: &Path) -> Result<File, String> {
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(|e| e.to_string())
}

/// Each has a byte of a file that both have open, and a flock in common.
fn locks(stage: &mut Stage) -> Result<(), String> {
    // Closing any descriptor of a file gives up all one's POSIX locks on it.
    let (bytes, whole) = (stage.dir().join("bytes"), stage.dir().join("whole"));
    let (file, locked) = (open(&bytes)?, open(&whole)?);
    flock(&locked, FlockOperation::LockExclusive).map_err(|e| e.to_string())?;
    let theirs = file.try_clone().map_err(|e| e.to_string())?;
    let parent = std::process::id();
    let mut relative: Relative = child(move || {
        lock(&theirs, 2)?;
        Ok(Box::new(move || {
            same("holder of byte 1", &holder(&theirs, 1)?, &parent)
        }))
    })?;
    // Now: this process has closed the child's descriptor.
    lock(&file, 1)?;
    while stage.next()? {
        relative.check()?;
        same("holder of byte 2", &holder(&file, 2)?, &relative.pid)?;
        let taken = flock(open(&whole)?, FlockOperation::NonBlockingLockShared);
        same("flock", &taken.is_err(), &true)?;
    }
    Ok(())
}
