//! Files by name and open file descriptions.

use super::numbers::{bits, count, id, offset, owners, path, pid, refers, within};
use super::problem::{At, CheckError, Found, Object, Problem};
use super::{MAX_FD, connection, inet, lock, timers, unix};
use crate::checkpoint::Checkpoint;
use crate::device::{DeviceState, is_stateless};
use crate::epoll::EpollState;
use crate::files::{FileKind, FileOwner, OpenFile};
use crate::ids::{DescriptionId, ShmemId};
use crate::inotify::InotifyState;
use crate::pidfd::PidFdState;
use crate::proc_file::ProcFileState;
use crate::regular::FileRef;
use crate::shmem::ShmemKind;

const TYPE_MASK: u32 = 0o170_000;
pub(super) const FIFO: u32 = 0o010_000;
pub(super) const CHARACTER: u32 = 0o020_000;
pub(super) const DIRECTORY: u32 = 0o040_000;
pub(super) const REGULAR: u32 = 0o100_000;

/// O_CREAT, O_NOCTTY, O_TRUNC: said to open(2), never kept. O_CLOEXEC: a
/// descriptor's, never a description's.
const NEVER_KEPT: u32 = 0o100 | 0o400 | 0o1_000 | 0o2_000_000;

/// O_EXCL, which means PIDFD_THREAD where it is kept.
const EXCLUSIVE: u32 = 0o200;

/// A file of one of these types.
pub(super) fn file_type(what: &'static str, mode: u32, types: &[u32]) -> Found {
    match types.contains(&(mode & TYPE_MASK)) && mode >> 16 == 0 {
        true => Ok(()),
        false => Err(Problem::FileType { what, mode }),
    }
}

/// A file by name, of one of these types.
pub(super) fn file_ref(
    image: &Checkpoint,
    what: &'static str,
    file: &FileRef,
    types: &[u32],
) -> Found {
    file_type(what, file.mode, types)?;
    named(image, what, file)
}

/// A file by name, of any type.
fn named(image: &Checkpoint, what: &'static str, file: &FileRef) -> Found {
    path(what, &file.path)?;
    offset("size", file.size)?;
    if let Some(build_id) = &file.build_id {
        count("bytes of build id", build_id.0.len(), 1..=256)?;
    }
    match file.ghost {
        Some(ghost) => refers("deleted file", ghost.0, image.ghosts.len()),
        None => Ok(()),
    }
}

pub(super) fn check_open_files(image: &Checkpoint) -> Result<(), CheckError> {
    for (place, file) in image.files.iter().enumerate() {
        let object = Object::Description(file.id.0);
        id(file.id.0, place).at(object)?;
        open_file(image, file).at(object)?;
    }
    Ok(())
}

fn open_file(image: &Checkpoint, file: &OpenFile) -> Found {
    let mut known = i32::MAX as u32 & !NEVER_KEPT;
    if !matches!(file.kind, FileKind::PidFd(_)) {
        known &= !EXCLUSIVE;
    }
    bits("flags", file.flags.into(), known.into())?;
    offset("position", file.position)?;
    if let Some(owner) = &file.owner {
        file_owner(owner)?;
    }
    lock::locks(image, file)?;
    match &file.kind {
        FileKind::Regular(f) => file_ref(image, "a regular file", f, &[REGULAR]),
        FileKind::Directory(f) => file_ref(image, "a directory", f, &[DIRECTORY]),
        FileKind::PathOnly(f) => named(image, "a file opened with O_PATH", f),
        FileKind::Device(d) => device(image, d),
        FileKind::Proc(p) => proc_file(p),
        FileKind::Pipe(end) => refers("pipe", end.pipe.0, image.pipes.len()),
        FileKind::EventFd(e) => within("eventfd count", e.count, 0..=u64::MAX - 1),
        FileKind::Epoll(e) => epoll(image, file.id, e),
        FileKind::TimerFd(t) => timers::timerfd(t),
        FileKind::SignalFd(_) => Ok(()),
        FileKind::Inotify(i) => inotify(image, i),
        FileKind::MemFd(shmem) => memfd(image, *shmem),
        FileKind::PidFd(p) => pidfd(image, p),
        FileKind::Unix(s) => unix::socket(image, file.id, s),
        FileKind::Connection(c) => connection::connection(image, file.id, c),
        FileKind::Inet(s) => inet::inet(image, file.id, s),
    }
}

fn device(image: &Checkpoint, device: &DeviceState) -> Found {
    file_ref(image, "a character device", &device.file, &[CHARACTER])?;
    match is_stateless(device.rdev) {
        true => Ok(()),
        false => Err(Problem::Unknown {
            what: "a device that carries no state",
            value: device.rdev,
        }),
    }
}

fn file_owner(owner: &FileOwner) -> Found {
    within("owner kind", owner.kind, 0..=2)?;
    within("owner", owner.id, 0..=super::MAX_PID as i32)?;
    owners(&[owner.uids.0, owner.uids.1])?;
    within("owner's signal", owner.signal, 0..=64)
}

fn proc_file(file: &ProcFileState) -> Found {
    let what = "a file of /proc or /sys";
    path(what, &file.path)?;
    let inside = |root: &[u8]| {
        let rest = file.path.0.strip_prefix(root);
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    };
    match inside(b"/proc") || inside(b"/sys") {
        true => Ok(()),
        false => Err(Problem::Path { what }),
    }
}

fn epoll(image: &Checkpoint, own: DescriptionId, epoll: &EpollState) -> Found {
    for target in &epoll.targets {
        within("epoll target", target.fd, 0..=MAX_FD)?;
        let watched = target.description;
        refers("open file description", watched.0, image.files.len())?;
        if watched == own {
            return Err(Problem::Contradiction("an epoll instance watches itself"));
        }
    }
    Ok(())
}

fn inotify(image: &Checkpoint, inotify: &InotifyState) -> Found {
    let mut seen = std::collections::HashSet::new();
    for watch in &inotify.watches {
        within("watch descriptor", watch.wd, 1..=i32::MAX)?;
        named(image, "a watched file", &watch.file)?;
        if !seen.insert(watch.wd) {
            let (what, value) = ("watch descriptor", watch.wd as u64);
            return Err(Problem::Order { what, value });
        }
    }
    Ok(())
}

fn memfd(image: &Checkpoint, id: ShmemId) -> Found {
    refers("shared memory object", id.0, image.shmems.len())?;
    match image.shmems.get(id.0 as usize).map(|s| &s.kind) {
        Some(ShmemKind::MemFd { .. }) => Ok(()),
        _ => Err(Problem::Contradiction(
            "its shared memory object is no memfd",
        )),
    }
}

fn pidfd(image: &Checkpoint, pidfd: &PidFdState) -> Found {
    pid("pid", pidfd.pid)?;
    let known = image.tasks.iter().any(|task| {
        task.pid == pidfd.pid
            || pidfd.thread && task.threads.iter().any(|thread| thread.tid == pidfd.pid)
    });
    match known {
        true => Ok(()),
        false => {
            let (what, id) = ("task", pidfd.pid);
            Err(Problem::Dangling { what, id })
        }
    }
}
