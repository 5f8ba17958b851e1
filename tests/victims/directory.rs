//! Directories, the working directory, the root and the umask.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::fs::OFlags;

use crate::harness::{Stage, Victim};
use crate::regular::{open_at, text};
use crate::sys::{call, same, to};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("directory", directory),
        Victim::new("directory-root", root),
    ]
}

/// A directory read half-way, one by O_PATH; working directory and umask.
fn directory(stage: &mut Stage) -> Result<(), String> {
    let dir = stage.dir().join("many");
    fs::create_dir(&dir).map_err(text("mkdir"))?;
    let names: BTreeSet<String> = (0..2000).map(|i| format!("entry-{i}")).collect();
    for name in &names {
        File::create(dir.join(name)).map_err(text("create"))?;
    }
    let open = open_at(&dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC)?;
    let path = open_at(&dir, OFlags::PATH | OFlags::DIRECTORY)?;
    std::env::set_current_dir(&dir).map_err(text("chdir"))?;
    call("umask", libc::SYS_umask, &[0o137])?;
    let mut seen = BTreeSet::new();
    seen.extend(read_some(open.as_raw_fd())?);
    while stage.next()? {
        // Each round reads on where the last one stopped.
        for name in read_some(open.as_raw_fd())? {
            if !seen.insert(name.clone()) {
                return Err(format!("{name} was read twice"));
            }
        }
        let (held, cwd) = (rustix::fs::fstat(&path), fs::metadata("."));
        let cwd = cwd.map_err(text("stat"))?;
        same(
            "working directory",
            &cwd.ino(),
            &held.map_err(text("stat"))?.st_ino,
        )?;
        let made = dir.join("made");
        fs::write(&made, "").map_err(text("write"))?;
        let mode = fs::metadata(&made)
            .map_err(text("stat"))?
            .permissions()
            .mode();
        same("mode of a new file", &(mode & 0o777), &0o640)?;
        fs::remove_file(made).map_err(text("unlink"))?;
    }
    while let Some(more) = Some(read_some(open.as_raw_fd())?).filter(|m| !m.is_empty()) {
        seen.extend(more);
    }
    match names.iter().find(|name| !seen.contains(*name)) {
        None => Ok(()),
        Some(name) => Err(format!("{name} was never read")),
    }
}

/// Names from one getdents64.
fn read_some(fd: i32) -> Result<Vec<String>, String> {
    let mut buffer = vec![0_u8; 4096];
    let args = [fd as u64, to(buffer.as_mut_slice()), 4096];
    let len = call("getdents64", libc::SYS_getdents64, &args)? as usize;
    let (mut names, mut at) = (Vec::new(), 0);
    while at < len {
        let size = usize::from(u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]));
        let name = CStr::from_bytes_until_nul(&buffer[at + 19..]).map_err(text("name"))?;
        names.push(name.to_string_lossy().into_owned());
        at += size;
    }
    Ok(names)
}

/// Another root, with a working directory outside of it.
fn root(stage: &mut Stage) -> Result<(), String> {
    let jail = stage.dir().join("jail");
    fs::create_dir(&jail).map_err(text("mkdir"))?;
    fs::write(jail.join("inside"), "jail").map_err(text("write"))?;
    // The stage is found through the working directory from here on.
    stage.go_by_working_directory();
    std::os::unix::fs::chroot(&jail).map_err(text("chroot"))?;
    while stage.next()? {
        let inside = fs::read_to_string("/inside").map_err(text("read"))?;
        same("contents", &&inside[..], &"jail")?;
        same(
            "file outside",
            &fs::exists("/etc/passwd").map_err(text("stat"))?,
            &false,
        )?;
    }
    Ok(())
}
