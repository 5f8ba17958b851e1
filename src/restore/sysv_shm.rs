//! System V shared memory segments. One that is still there, as its last user
//! was the dumped task, is taken up again; another is made, with the number it
//! had.

use icecore_images::shmem::{ShmemKind, ShmemState};

use super::RestoreContext;
use crate::blocker::Place;
use crate::kernel::sysv_shm::{self, Attached, Segment};
use crate::tracer::{Guardian, Undo};

/// Segments of a restore, attached to this process. Dropped without
/// [`settle`](Self::settle), those that were made are gone, as they are if
/// icecore is killed.
#[derive(Debug, Default)]
pub(super) struct Segments {
    attached: Vec<Attached>,
    guardian: Option<Guardian>,
}

/// The segment as it was, and its number; `None` for another kind of object.
fn wanted(state: &ShmemState) -> Option<(u32, Segment)> {
    let ShmemKind::SysV {
        shm_id,
        key,
        mode,
        uid,
        gid,
        creator_uid,
        creator_gid,
        removed,
        locked,
    } = state.kind
    else {
        return None;
    };
    let segment = Segment {
        key,
        size: state.size,
        mode,
        uid,
        gid,
        creator_uid,
        creator_gid,
        removed,
        locked,
        attached: 0,
    };
    Some((shm_id, segment))
}

/// Notes numbers and keys that others have.
pub(super) fn plan(ctx: &mut RestoreContext<'_>) {
    for (id, segment) in ctx.image.shmems.iter().filter_map(wanted) {
        if let Err(problem) = possible(id, &segment) {
            let help = "ipcs -m shows it; remove it with ipcrm, if nobody needs it";
            ctx.obstacle(Place::Machine, problem, Some(help));
        }
    }
}

/// Whether a segment is there to be taken up; otherwise it can be made.
fn possible(id: u32, segment: &Segment) -> Result<bool, String> {
    let what = format!("System V shared memory segment {id}");
    let failed = |e| format!("{what} cannot be looked at: {e}");
    match sysv_shm::look(id).map_err(failed)? {
        Some(found) if found == *segment => return Ok(true),
        Some(found) if found.attached != 0 => {
            return Err(format!("{what} is in use, {} times", found.attached));
        }
        Some(_) => return Err(format!("{what} is another one here")),
        None => {}
    }
    if segment.removed {
        return Ok(false);
    }
    match sysv_shm::by_key(segment.key).map_err(failed)? {
        Some(_) => Err(format!("another segment has the key of {what}")),
        None => Ok(false),
    }
}

impl Segments {
    /// Takes up or makes the segment of `state`: open for reading and writing,
    /// empty.
    pub(super) fn open(&mut self, state: &ShmemState) -> std::io::Result<std::fs::File> {
        let Some((id, segment)) = wanted(state) else {
            return Err(rustix::io::Errno::INVAL.into());
        };
        let there = possible(id, &segment).map_err(std::io::Error::other)?;
        if !there {
            self.make(id, segment)?;
        }
        let attached = Attached::new(id, segment.size)?;
        if segment.removed {
            sysv_shm::remove(id)?;
        }
        let file = attached.open()?;
        self.attached.push(attached);
        if there {
            // What is no part of the image is zero.
            let flags =
                rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, flags, 0, segment.size)?;
        }
        Ok(file)
    }

    fn make(&mut self, id: u32, mut segment: Segment) -> std::io::Result<()> {
        let guardian = match &mut self.guardian {
            Some(guardian) => guardian,
            none => none.insert(Guardian::spawn()?),
        };
        guardian.undo_later(&Undo::RemoveSegment { id })?;
        let number = guardian.undo_later(&Undo::Write {
            path: sysv_shm::NEXT_ID.into(),
            bytes: sysv_shm::ANY_ID.into(),
        })?;
        // The key of a removed one may be somebody else's by now.
        if segment.removed && sysv_shm::by_key(segment.key)?.is_some() {
            segment.key = 0;
        }
        sysv_shm::create(id, &segment)?;
        guardian.forget(number)
    }

    /// From now on everything is there to stay, and attached to the tasks only.
    pub(super) fn settle(&mut self) -> std::io::Result<()> {
        self.attached.clear();
        self.guardian.as_mut().map_or(Ok(()), Guardian::forget_all)
    }
}
