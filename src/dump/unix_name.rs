//! What an AF_UNIX socket is bound to.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use icecore_images::unix::{UnixFile, UnixName};

use crate::kernel::unix_message;

/// The name of a socket, or why it cannot be carried.
pub(super) fn of(socket: &OwnedFd) -> io::Result<Result<Option<UnixName>, String>> {
    let Some(name) = unix_message::name(socket)? else {
        return Ok(Ok(None));
    };
    let file = match name.first() {
        Some(0) => Ok(None),
        _ => file(socket)?,
    };
    let file = match file {
        Ok(file) => file,
        Err(problem) => return Ok(Err(problem)),
    };
    let name = icecore_images::ByteString::from(name);
    if let Some(file) = file.as_ref().filter(|f| f.base(&name).is_none()) {
        let problem = format!("it was bound to {name}, which became {}", file.path);
        return Ok(Err(problem));
    }
    Ok(Ok(Some(UnixName { name, file })))
}

/// The file of a socket where the path still leads to it.
fn file(socket: &OwnedFd) -> io::Result<Result<Option<UnixFile>, String>> {
    let fd = match unix_message::file(socket) {
        Ok(fd) => fd,
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            return Ok(Err(
                "where its file is cannot be asked without CAP_NET_ADMIN".to_owned(),
            ));
        }
        Err(e) => return Err(e),
    };
    let meta = std::fs::File::from(fd.try_clone()?).metadata()?;
    let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    let there = std::fs::symlink_metadata(&path);
    let same = there.is_ok_and(|t| (t.dev(), t.ino()) == (meta.dev(), meta.ino()));
    if meta.nlink() == 0 || !same {
        return Ok(Ok(None));
    }
    if meta.nlink() > 1 {
        let problem = "its file has other names (hard links), which would lead nowhere then";
        return Ok(Err(problem.to_owned()));
    }
    let path = path.as_os_str().as_bytes();
    Ok(Ok(Some(UnixFile {
        path: path.into(),
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
    })))
}
