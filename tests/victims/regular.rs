//! Regular files: offsets, flags, owners, names, and very many of them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode as Bits, OFlags, open};

use crate::harness::{Mode, Stage, Victim};
use crate::sys::{call, same, tid, to};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("regular", regular),
        Victim::new("regular-names", names),
        Victim::new("regular-many", many).only(&[Mode::Cycles, Mode::Running]),
        Victim::new("regular-beyond-limit", beyond_limit).only(&[Mode::Cycles, Mode::Running]),
        Victim::new("regular-dropped", dropped).only(&[Mode::Cycles, Mode::Running]),
    ]
}

pub(crate) fn text<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String {
    let what = what.to_owned();
    move |e| format!("{what}: {e}")
}

/// Opens with these flags.
pub(crate) fn open_at(path: &Path, flags: OFlags) -> Result<OwnedFd, String> {
    let name = path.display().to_string();
    open(path, flags, Bits::from_raw_mode(0o644)).map_err(text(&name))
}

fn flags_of(fd: impl AsFd) -> Result<OFlags, String> {
    rustix::fs::fcntl_getfl(fd).map_err(text("F_GETFL"))
}

fn position(fd: impl AsFd) -> Result<u64, String> {
    rustix::fs::tell(fd).map_err(text("tell"))
}

const F_SETSIG: u64 = 10;
const F_GETSIG: u64 = 11;
const F_SETOWN_EX: u64 = 15;
const F_GETOWN_EX: u64 = 16;

fn owner(fd: &OwnedFd) -> Result<([i32; 2], u64), String> {
    let mut owner = [0_i32; 2];
    let number = fd.as_raw_fd() as u64;
    call(
        "F_GETOWN_EX",
        libc::SYS_fcntl,
        &[number, F_GETOWN_EX, to(&mut owner)],
    )?;
    let signal = call("F_GETSIG", libc::SYS_fcntl, &[number, F_GETSIG])?;
    Ok((owner, signal))
}

fn regular(stage: &mut Stage) -> Result<(), String> {
    let dir = stage.dir().to_owned();
    std::fs::write(dir.join("data"), "0123456789").map_err(text("write"))?;
    let mut file = File::from(open_at(&dir.join("data"), OFlags::RDWR)?);
    file.seek(SeekFrom::Start(4)).map_err(text("seek"))?;
    let twin = rustix::io::fcntl_dupfd_cloexec(&file, 77).map_err(text("dup"))?;
    let append = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::SYNC;
    let mut log = File::from(open_at(&dir.join("log"), append)?);
    let noatime = open_at(
        &dir.join("data"),
        OFlags::RDONLY | OFlags::NOATIME | OFlags::NOFOLLOW,
    )?;
    let path = open_at(&dir.join("data"), OFlags::PATH | OFlags::CLOEXEC)?;
    let mut owned = [1_i32, rustix::process::getpid().as_raw_nonzero().get()];
    let number = file.as_raw_fd() as u64;
    call(
        "F_SETOWN_EX",
        libc::SYS_fcntl,
        &[number, F_SETOWN_EX, to(&mut owned)],
    )?;
    call("F_SETSIG", libc::SYS_fcntl, &[number, F_SETSIG, 40])?;
    let file_owner = owner(&twin)?;
    same("owner", &file_owner, &(owned, 40))?;
    owned = [0, tid() as i32];
    let number = log.as_raw_fd() as u64;
    call(
        "F_SETOWN_EX",
        libc::SYS_fcntl,
        &[number, F_SETOWN_EX, to(&mut owned)],
    )?;
    let flags = [
        flags_of(&file)?,
        flags_of(&log)?,
        flags_of(&noatime)?,
        flags_of(&path)?,
    ];
    let mut written = 0;
    while stage.next()? {
        let now = [
            flags_of(&file)?,
            flags_of(&log)?,
            flags_of(&noatime)?,
            flags_of(&path)?,
        ];
        same("flags", &now, &flags)?;
        same("owner", &owner(&twin)?, &file_owner)?;
        same(
            "owner of the log",
            &owner(&rustix::io::dup(&log).map_err(text("dup"))?)?.0,
            &owned,
        )?;
        let twin_fd = rustix::io::fcntl_getfd(&twin).map_err(text("F_GETFD"))?;
        same("close-on-exec", &twin_fd, &rustix::io::FdFlags::CLOEXEC)?;
        // What one reads the other is past: they are one description.
        let at = position(&twin)?;
        let mut byte = [0; 1];
        file.read_exact(&mut byte).map_err(text("read"))?;
        same("byte", &byte[0], &(b'0' + at as u8))?;
        same("position of the twin", &position(&twin)?, &(at + 1))?;
        log.write_all(b"line\n").map_err(text("append"))?;
        written += 5;
        let len = std::fs::metadata(dir.join("log"))
            .map_err(text("stat"))?
            .len();
        same("length of the log", &len, &written)?;
    }
    Ok(())
}

/// Names that look like something else.
fn names(stage: &mut Stage) -> Result<(), String> {
    let dir = stage.dir().to_owned();
    let names: [&[u8]; 5] = [
        b"name (deleted)",
        b"new\nline",
        b"\xff\xfe not UTF-8",
        b" leading and trailing ",
        br"back\012slash",
    ];
    let mut files = Vec::new();
    for name in names {
        let path = dir.join(std::ffi::OsStr::from_bytes(name));
        std::fs::write(&path, name).map_err(text("write"))?;
        files.push(File::open(path).map_err(text("open"))?);
    }
    std::fs::write(dir.join("before"), "renamed").map_err(text("write"))?;
    let mut renamed = File::open(dir.join("before")).map_err(text("open"))?;
    std::fs::rename(dir.join("before"), dir.join("after")).map_err(text("rename"))?;
    while stage.next()? {
        for (file, name) in files.iter_mut().zip(names) {
            let mut bytes = Vec::new();
            file.rewind().map_err(text("rewind"))?;
            file.read_to_end(&mut bytes).map_err(text("read"))?;
            same("contents", &&bytes[..], &name)?;
        }
        let mut contents = String::new();
        renamed.rewind().map_err(text("rewind"))?;
        renamed
            .read_to_string(&mut contents)
            .map_err(text("read"))?;
        same("contents", &&contents[..], &"renamed")?;
        let link = std::fs::read_link(format!("/proc/self/fd/{}", renamed.as_raw_fd()));
        same("name", &link.map_err(text("readlink"))?, &dir.join("after"))?;
    }
    Ok(())
}

/// Thousands of descriptors, a third of them duplicates, one with the highest
/// number there may be.
fn many(stage: &mut Stage) -> Result<(), String> {
    let path = stage.dir().join("data");
    std::fs::write(&path, vec![7; 9000]).map_err(text("write"))?;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let all = rustix::process::Rlimit {
        current: limit,
        maximum: limit,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all).map_err(text("limit"))?;
    let mut files = Vec::new();
    for i in 0..1000_u64 {
        let file = open_at(&path, OFlags::RDONLY)?;
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(i)).map_err(text("seek"))?;
        let twin = rustix::io::dup(&file).map_err(text("dup"))?;
        let event = rustix::event::eventfd(i as u32, rustix::event::EventfdFlags::NONBLOCK);
        files.push((i, file, twin, event.map_err(text("eventfd"))?));
    }
    let highest = limit.unwrap_or(1 << 20).min(1 << 20) - 1;
    let high = rustix::io::fcntl_dupfd_cloexec(&files[10].1, highest as i32);
    let high = high.map_err(text("dup"))?;
    let mut steps = 0;
    while stage.next()? {
        steps += 1;
        for (i, file, twin, event) in &files {
            rustix::fs::seek(file, rustix::fs::SeekFrom::Current(1)).map_err(text("seek"))?;
            same("position", &position(twin)?, &(i + steps))?;
            let mut count = [0; 8];
            match rustix::io::read(event, &mut count[..]) {
                Ok(_) => same("count", &u64::from_ne_bytes(count), i)?,
                Err(_) => same("count", &0, i)?,
            }
            if *i != 0 {
                rustix::io::write(event, &i.to_ne_bytes()).map_err(text("write"))?;
            }
        }
        same("position", &position(&high)?, &(10 + steps))?;
    }
    Ok(())
}

/// More descriptors than the limit, lowered since, would allow. One number
/// below it is left, for what the stage needs.
fn beyond_limit(stage: &mut Stage) -> Result<(), String> {
    let mut files = Vec::new();
    for _ in 0..50 {
        files.push(File::open("/dev/null").map_err(text("open"))?);
    }
    files.remove(3);
    let few = rustix::process::Rlimit {
        current: Some(20),
        maximum: Some(30),
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).map_err(text("limit"))?;
    while stage.next()? {
        for file in &files {
            file.metadata().map_err(text("stat"))?;
        }
        let now = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        same("limit", &now, &few)?;
    }
    Ok(())
}

/// Files that only root could open, held by somebody who is not root any more.
fn dropped(stage: &mut Stage) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let path = stage.dir().join("secret");
    std::fs::write(&path, "kept").map_err(text("write"))?;
    let only_root = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&path, only_root).map_err(text("chmod"))?;
    let writer = open_at(&path, OFlags::WRONLY)?;
    let reader = open_at(&path, OFlags::RDONLY)?;
    let nobody = 65534;
    call("setresgid", libc::SYS_setresgid, &[nobody; 3])?;
    call("setresuid", libc::SYS_setresuid, &[nobody; 3])?;
    while stage.next()? {
        if File::open(&path).is_ok() {
            return Err("the secret can be opened".to_owned());
        }
        rustix::io::pwrite(&writer, b"K", 0).map_err(text("write"))?;
        let mut bytes = [0; 4];
        rustix::io::pread(&reader, &mut bytes[..], 0).map_err(text("read"))?;
        same("contents", &&bytes, &b"Kept")?;
    }
    Ok(())
}
