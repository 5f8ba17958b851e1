//! The guardian: a small process that undoes what icecore has changed outside
//! the registers of its tracees, if icecore ends before it could do so itself.
//!
//! It is forked before anything is changed, in a session of its own, and waits
//! for the end of a pipe that only icecore holds. What is to be undone is told
//! to it before it is done, through a memory file that outlives icecore.
//! Between fork and end it makes system calls only: icecore may have other
//! threads, whose locks it has inherited.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Something to be undone.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Undo {
    /// Remove a file. Its name must be one that nobody else would use.
    RemoveFile {
        /// Where it is.
        path: PathBuf,
        /// Leave it, if this exists.
        unless: Option<PathBuf>,
    },
    /// Remove a directory, if it is empty.
    RemoveDir {
        /// Where it is.
        path: PathBuf,
        /// Leave it, if this exists.
        unless: Option<PathBuf>,
    },
}

/// Something the guardian has been told, by which it can be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    at: u64,
}

/// A guardian on watch. Dropped without [`dismiss`](Self::dismiss), it undoes
/// everything, the latest first.
#[derive(Debug)]
pub struct Guardian {
    pid: libc::pid_t,
    /// Its end is what the guardian waits for.
    watched: Option<OwnedFd>,
    orders: File,
    end: u64,
}

// An order: kind, whether it holds, lengths of both paths with their NULs, the
// paths.
const HEADER: usize = 6;
const FILE: u8 = 1;
const DIR: u8 = 2;
const VOID: u8 = 0;

impl Guardian {
    /// Puts a guardian on watch.
    ///
    /// # Errors
    /// Where there can be no pipe, memory file or process; then nothing may be
    /// changed that would need one.
    pub fn spawn() -> io::Result<Self> {
        // SAFETY: the name is a NUL-terminated literal.
        let orders = unsafe {
            owned(libc::memfd_create(
                c"icecore-orders".as_ptr(),
                libc::MFD_CLOEXEC,
            ))?
        };
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: pipe2 has just made both; nobody else owns them.
        let (end, watched) =
            unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        // No signal at its end: a caller that waits for any child is not
        // disturbed.
        // SAFETY: a fork; the child goes to `watch` at once, which never
        // returns and makes nothing but system calls.
        let pid = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => watch(end.as_raw_fd(), orders.as_raw_fd()),
            pid => Ok(Self {
                pid: pid as libc::pid_t,
                watched: Some(watched),
                orders: orders.into(),
                end: 0,
            }),
        }
    }

    /// Tells it what to undo, before it is done. Paths are made absolute.
    ///
    /// # Errors
    /// Where it could not be told: then it must not be done.
    pub fn undo_later(&mut self, undo: &Undo) -> io::Result<Told> {
        let (kind, path, unless) = match undo {
            Undo::RemoveFile { path, unless } => (FILE, path, unless),
            Undo::RemoveDir { path, unless } => (DIR, path, unless),
        };
        let (path, unless) = (c_path(path)?, unless.as_deref().map(c_path).transpose()?);
        let unless = unless.unwrap_or_default();
        let mut order = vec![kind, 1];
        for part in [&path, &unless] {
            let len = u16::try_from(part.len()).map_err(|_| io::ErrorKind::InvalidFilename)?;
            order.extend(len.to_ne_bytes());
        }
        order.extend(path);
        order.extend(unless);
        self.orders.write_all_at(&order, self.end)?;
        let told = Told { at: self.end };
        self.end += order.len() as u64;
        Ok(told)
    }

    /// Takes one thing back: it is there to stay, or has been undone.
    pub fn forget(&mut self, told: Told) -> io::Result<()> {
        self.orders.write_all_at(&[VOID], told.at + 1)
    }

    /// Takes everything back and ends the watch.
    pub fn dismiss(mut self) -> io::Result<()> {
        self.orders.set_len(0)?;
        self.end_watch();
        Ok(())
    }

    fn end_watch(&mut self) {
        if self.watched.take().is_none() {
            return;
        }
        // SAFETY: no status is asked for.
        while unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL) } == -1
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.end_watch();
    }
}

fn c_path(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = std::path::absolute(path)?.as_os_str().as_bytes().to_vec();
    if bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    bytes.push(0);
    Ok(bytes)
}

/// # Safety
/// `fd` must be a descriptor that nobody else owns, or -1.
unsafe fn owned(fd: i32) -> io::Result<OwnedFd> {
    match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: as the caller promises.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// The guardian's life: nothing but system calls.
fn watch(end: i32, orders: i32) -> ! {
    // SAFETY: none of these touch memory but the bytes and the set named.
    unsafe {
        libc::setsid();
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        libc::prctl(libc::PR_SET_NAME, c"icecore-guard".as_ptr());
        libc::chdir(c"/".as_ptr());
        // Where they lie at 0 and 1 already, they are moved away first.
        let end = libc::fcntl(end, libc::F_DUPFD, 10);
        let orders = libc::fcntl(orders, libc::F_DUPFD, 10);
        libc::dup2(end, 0);
        libc::dup2(orders, 1);
        libc::syscall(libc::SYS_close_range, 2, u32::MAX, 0);
        let mut byte = 0u8;
        while libc::read(0, (&raw mut byte).cast(), 1) != 0 {}
    }
    obey();
    // SAFETY: ends this process.
    unsafe { libc::_exit(0) }
}

/// Maps the orders and carries them out, the last one first.
fn obey() {
    // SAFETY: a stat buffer of zeros is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is live.
    if unsafe { libc::fstat(1, &raw mut stat) } != 0 || stat.st_size <= 0 {
        return;
    }
    let len = stat.st_size as usize;
    // SAFETY: a new mapping.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ,
            libc::MAP_PRIVATE,
            1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return;
    }
    // SAFETY: mapped, `len` bytes long, and written by nobody any more.
    let orders = unsafe { std::slice::from_raw_parts(at.cast::<u8>(), len) };
    let count = Orders(orders).count();
    for i in (0..count).rev() {
        if let Some(order) = Orders(orders).nth(i) {
            carry_out(&order);
        }
    }
}

struct Order<'a> {
    kind: u8,
    holds: bool,
    /// Both end with a NUL; the second may be empty.
    path: &'a [u8],
    unless: &'a [u8],
}

struct Orders<'a>(&'a [u8]);

impl<'a> Iterator for Orders<'a> {
    type Item = Order<'a>;

    fn next(&mut self) -> Option<Order<'a>> {
        let (header, rest) = self.0.split_at_checked(HEADER)?;
        let path = u16::from_ne_bytes([header[2], header[3]]) as usize;
        let unless = u16::from_ne_bytes([header[4], header[5]]) as usize;
        let (path, rest) = rest.split_at_checked(path)?;
        let (unless, rest) = rest.split_at_checked(unless)?;
        self.0 = rest;
        Some(Order {
            kind: header[0],
            holds: header[1] != VOID,
            path,
            unless,
        })
    }
}

fn carry_out(order: &Order<'_>) {
    if !order.holds || order.path.last() != Some(&0) {
        return;
    }
    let unless = order.unless;
    // SAFETY: checked to end with a NUL.
    if unless.last() == Some(&0) && unsafe { libc::access(unless.as_ptr().cast(), libc::F_OK) } == 0
    {
        return;
    }
    // SAFETY: the path has just been checked to end with a NUL.
    unsafe {
        match order.kind {
            FILE => libc::unlink(order.path.as_ptr().cast()),
            _ => libc::rmdir(order.path.as_ptr().cast()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there() -> io::Result<(tempfile::TempDir, PathBuf, PathBuf)> {
        let dir = tempfile::tempdir()?;
        let (inner, file) = (dir.path().join("d"), dir.path().join("d/f"));
        std::fs::create_dir(&inner)?;
        std::fs::write(&file, "x")?;
        Ok((dir, inner, file))
    }

    fn tell(guardian: &mut Guardian, inner: &Path, file: &Path) -> io::Result<Told> {
        let (path, unless) = (inner.to_owned(), None);
        guardian.undo_later(&Undo::RemoveDir { path, unless })?;
        let (path, unless) = (file.to_owned(), None);
        guardian.undo_later(&Undo::RemoveFile { path, unless })
    }

    #[test]
    fn what_is_not_taken_back_is_undone_latest_first() -> io::Result<()> {
        let (_dir, inner, file) = there()?;
        let mut guardian = Guardian::spawn()?;
        tell(&mut guardian, &inner, &file)?;
        assert!(file.exists());
        drop(guardian);
        assert!(!inner.exists());
        Ok(())
    }

    #[test]
    fn what_is_taken_back_stays() -> io::Result<()> {
        let (_dir, inner, file) = there()?;
        let mut guardian = Guardian::spawn()?;
        tell(&mut guardian, &inner, &file)?;
        guardian.dismiss()?;
        assert!(file.exists());

        let mut guardian = Guardian::spawn()?;
        let told = tell(&mut guardian, &inner, &file)?;
        guardian.forget(told)?;
        drop(guardian);
        assert!(file.exists());
        Ok(())
    }

    #[test]
    fn what_depends_on_a_file_is_left_where_it_exists() -> io::Result<()> {
        let (dir, _inner, file) = there()?;
        let mut guardian = Guardian::spawn()?;
        let unless = Some(dir.path().to_owned());
        let path = file.clone();
        guardian.undo_later(&Undo::RemoveFile { path, unless })?;
        drop(guardian);
        assert!(file.exists());
        Ok(())
    }
}
