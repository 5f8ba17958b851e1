//! inotify(7).

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init, remove_watch};

use crate::harness::{Stage, Victim};
use crate::regular::text;
use crate::sys::same;

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("inotify", inotify).allow("fd/*/inotify*"),
        Victim::refused(
            "inotify-queued",
            "bytes of events are queued, unread",
            queued,
        ),
    ]
}

fn instance() -> Result<OwnedFd, String> {
    init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(text("inotify"))
}

/// Number and mask of each queued event.
fn events(fd: &OwnedFd) -> Result<Vec<(i32, u32)>, String> {
    let mut buffer = [0_u8; 4096];
    let len = match rustix::io::read(fd, &mut buffer[..]) {
        Err(rustix::io::Errno::AGAIN) => 0,
        done => done.map_err(text("read"))?,
    };
    let word = |at: usize| {
        let bytes = [buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3]];
        u32::from_ne_bytes(bytes)
    };
    let (mut all, mut at) = (Vec::new(), 0);
    while at < len {
        all.push((word(at) as i32, word(at + 4)));
        at += 16 + word(at + 12) as usize;
    }
    Ok(all)
}

/// Watches of directories and of a file that has been renamed since, with
/// numbers that are not the first ones.
fn inotify(stage: &mut Stage) -> Result<(), String> {
    let dir = stage.dir().join("watched");
    fs::create_dir(&dir).map_err(text("mkdir"))?;
    fs::write(dir.join("old"), "").map_err(text("write"))?;
    let fd = instance()?;
    let watch = |path: &Path, mask| add_watch(&fd, path, mask).map_err(text("watch"));
    for _ in 0..5 {
        let wd = watch(&dir, WatchFlags::CREATE)?;
        remove_watch(&fd, wd).map_err(text("unwatch"))?;
    }
    let in_dir = watch(
        &dir,
        WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR,
    )?;
    let on_file = watch(&dir.join("old"), WatchFlags::MODIFY | WatchFlags::OPEN)?;
    fs::rename(dir.join("old"), dir.join("new")).map_err(text("rename"))?;
    same("numbers", &(in_dir, on_file), &(6, 7))?;
    events(&fd)?;
    while stage.next()? {
        same("events of the sleep", &events(&fd)?, &vec![])?;
        fs::write(dir.join("made"), "").map_err(text("write"))?;
        fs::remove_file(dir.join("made")).map_err(text("unlink"))?;
        same("events", &events(&fd)?, &vec![(6, 0x100), (6, 0x200)])?;
        fs::write(dir.join("new"), "more").map_err(text("write"))?;
        let seen = events(&fd)?;
        same("event of the file", &seen.contains(&(7, 2)), &true)?;
    }
    Ok(())
}

fn queued(stage: &mut Stage) -> Result<(), String> {
    let dir = stage.dir().join("watched");
    fs::create_dir(&dir).map_err(text("mkdir"))?;
    let fd = instance()?;
    add_watch(&fd, &dir, WatchFlags::CREATE).map_err(text("watch"))?;
    fs::write(dir.join("made"), "").map_err(text("write"))?;
    while stage.next()? {}
    same("events", &events(&fd)?, &vec![(1, 0x100)])
}
