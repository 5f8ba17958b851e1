//! Extended attributes of a file, all of them.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

/// Name and value of each attribute of `path` (links followed). A file system
/// without attributes has none.
pub fn all(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = Vec::with_capacity(1 << 16);
    match rustix::fs::listxattr(path, spare_capacity(&mut names)) {
        Ok(_) => {}
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    }
    names
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = Vec::with_capacity(1 << 16);
            rustix::fs::getxattr(path, name, spare_capacity(&mut value))?;
            Ok((name.to_vec(), value))
        })
        .collect()
}

/// Sets one attribute of an open file.
pub fn set(file: impl AsFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    let flags = rustix::fs::XattrFlags::empty();
    Ok(rustix::fs::fsetxattr(file, name, value, flags)?)
}
