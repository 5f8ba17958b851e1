//! System V shared memory segments (shmget(2), shmctl(2), shmat(2)).

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// The number the next segment is to have; for CAP_CHECKPOINT_RESTORE.
pub(crate) const NEXT_ID: &str = "/proc/sys/kernel/shm_next_id";
/// What that holds as long as the kernel chooses.
pub(crate) const ANY_ID: &str = "-1";

/// What shmctl(IPC_STAT) tells of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Its key; IPC_PRIVATE (0) once it is marked for removal.
    pub(crate) key: u32,
    /// Bytes.
    pub(crate) size: u64,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) creator_uid: u32,
    pub(crate) creator_gid: u32,
    /// Goes with its last user (SHM_DEST).
    pub(crate) removed: bool,
    /// Stays in memory (SHM_LOCKED).
    pub(crate) locked: bool,
    /// Areas that are attachments of it, on the whole machine.
    pub(crate) attached: u64,
}

const SHM_DEST: u32 = 0o1000;
const SHM_LOCKED: u32 = 0o2000;

/// Looks at segment `id` of this IPC namespace; `None` if there is none. EACCES
/// for who may not read it.
pub(crate) fn look(id: u32) -> io::Result<Option<Segment>> {
    // SAFETY: a buffer of zeros is valid.
    let mut stat: libc::shmid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the buffer is live and of the right type.
    match done(unsafe { libc::shmctl(id as i32, libc::IPC_STAT, &raw mut stat) }) {
        Ok(_) => {}
        Err(e) if is_absence(&e) => return Ok(None),
        Err(e) => return Err(e),
    }
    let mode = u32::from(stat.shm_perm.mode);
    Ok(Some(Segment {
        key: stat.shm_perm.__key.cast_unsigned(),
        size: stat.shm_segsz as u64,
        mode: mode & 0o777,
        uid: stat.shm_perm.uid,
        gid: stat.shm_perm.gid,
        creator_uid: stat.shm_perm.cuid,
        creator_gid: stat.shm_perm.cgid,
        removed: mode & SHM_DEST != 0,
        locked: mode & SHM_LOCKED != 0,
        attached: stat.shm_nattch,
    }))
}

fn is_absence(e: &io::Error) -> bool {
    [libc::EINVAL, libc::EIDRM].contains(&e.raw_os_error().unwrap_or(0))
}

/// The segment that has a key; private ones (0) have none.
pub(crate) fn by_key(key: u32) -> io::Result<Option<u32>> {
    if key == 0 {
        return Ok(None);
    }
    // SAFETY: takes numbers.
    match done(unsafe { libc::shmget(key.cast_signed(), 0, 0) }) {
        Ok(id) => Ok(Some(id)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        // It is there, but not for us.
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => Ok(Some(u32::MAX)),
        Err(e) => Err(e),
    }
}

/// Makes a segment with this number, empty, created by `segment`'s creator and
/// owned by its owner. EEXIST if the number or the key is taken.
pub(crate) fn create(id: u32, segment: &Segment) -> io::Result<()> {
    let next = File::options().write(true).open(NEXT_ID)?;
    // Another restore waits until this one has its number.
    rustix::fs::flock(&next, FlockOperation::LockExclusive)?;
    // The creator is who makes it: a thread may be somebody else for a moment.
    let made = std::thread::scope(|scope| {
        let thread = scope.spawn(|| create_as_creator(&next, id, segment));
        thread.join().unwrap_or(Err(Errno::IO.into()))
    });
    let made = made.inspect_err(|_| {
        // Or somebody else's next segment would get the number.
        let _ = std::fs::write(NEXT_ID, ANY_ID);
    })?;
    if made != id {
        // Somebody was faster, or has it.
        remove(made)?;
        return Err(Errno::EXIST.into());
    }
    own(id, segment).inspect_err(|_| {
        let _ = remove(id);
    })
}

fn create_as_creator(mut next: &File, id: u32, segment: &Segment) -> io::Result<u32> {
    let size = usize::try_from(segment.size).map_err(|_| Errno::OVERFLOW)?;
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | segment.mode as i32;
    next.write_all(id.to_string().as_bytes())?;
    let unchanged = u32::MAX;
    let (uid, gid) = (segment.creator_uid, segment.creator_gid);
    // The calls themselves, as the C library's would change all threads.
    // SAFETY: take numbers, and change this thread, which ends.
    unsafe {
        if libc::geteuid() != uid || libc::getegid() != gid {
            done64(libc::syscall(
                libc::SYS_setresgid,
                unchanged,
                gid,
                unchanged,
            ))?;
            done64(libc::syscall(
                libc::SYS_setresuid,
                unchanged,
                uid,
                unchanged,
            ))?;
        }
        done(libc::shmget(segment.key.cast_signed(), size, flags))
    }
}

fn own(id: u32, segment: &Segment) -> io::Result<()> {
    // SAFETY: a buffer of zeros is valid.
    let mut stat: libc::shmid_ds = unsafe { std::mem::zeroed() };
    stat.shm_perm.uid = segment.uid;
    stat.shm_perm.gid = segment.gid;
    stat.shm_perm.mode = segment.mode as u16;
    // SAFETY: the buffer is live and of the right type.
    done(unsafe { libc::shmctl(id as i32, libc::IPC_SET, &raw mut stat) })?;
    if segment.locked {
        // SAFETY: takes no buffer.
        done(unsafe { libc::shmctl(id as i32, libc::SHM_LOCK, std::ptr::null_mut()) })?;
    }
    Ok(())
}

/// Marks a segment for removal: it goes with its last user.
pub(crate) fn remove(id: u32) -> io::Result<()> {
    // SAFETY: takes no buffer.
    done(unsafe { libc::shmctl(id as i32, libc::IPC_RMID, std::ptr::null_mut()) }).map(drop)
}

/// A segment attached to this process, until it is dropped.
#[derive(Debug)]
pub(crate) struct Attached {
    at: *mut libc::c_void,
    size: u64,
}

// SAFETY: an address that is never dereferenced here; any thread may detach it.
unsafe impl Send for Attached {}
// SAFETY: as above.
unsafe impl Sync for Attached {}

impl Attached {
    /// Attaches a segment of `size` bytes.
    pub(crate) fn new(id: u32, size: u64) -> io::Result<Self> {
        // SAFETY: at an address of the kernel's choice, never dereferenced.
        let at = unsafe { libc::shmat(id as i32, std::ptr::null(), 0) };
        match at as isize {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(Self { at, size }),
        }
    }

    /// The object behind it, open for reading and writing. Needs
    /// CAP_CHECKPOINT_RESTORE, as for `/proc/self/map_files`.
    pub(crate) fn open(&self) -> io::Result<File> {
        let start = self.at as u64;
        let end = start + self.size.next_multiple_of(icecore_images::pages::PAGE_SIZE);
        let link = PathBuf::from(format!("/proc/self/map_files/{start:x}-{end:x}"));
        File::options().read(true).write(true).open(link)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: nothing points into it. Should the kernel refuse, it stays
        // attached until we end.
        let _ = unsafe { libc::shmdt(self.at) };
    }
}

fn done(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn done64(result: i64) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
