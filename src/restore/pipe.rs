//! Pipes and FIFOs.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use icecore_images::ids::PipeId;
use icecore_images::pipe::PipeState;
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use super::ghost::{Ghosts, reopen};
use super::{RestoreContext, connection, file_ref};
use crate::error::RestoreError;

/// The pipes of a restore, filled. Both ends are held until all descriptions
/// are opened; what the task does not hold closes then.
#[derive(Debug)]
pub(super) struct Pipes(Vec<Pipe>);

#[derive(Debug)]
enum Pipe {
    /// The two descriptions that pipe2(2) made, until they are given away:
    /// unlike those opened through `/proc` they lack O_LARGEFILE.
    Unnamed {
        reader: (OwnedFd, bool),
        writer: (OwnedFd, bool),
    },
    /// Open for reading and writing.
    Fifo(OwnedFd),
    /// One that is there already, to whose ends we were led by others.
    Elsewhere,
}

impl Pipes {
    /// Makes and fills all pipes.
    pub(super) fn create(ctx: &RestoreContext<'_>, ghosts: &Ghosts) -> Result<Self, RestoreError> {
        let mut pipes = Vec::new();
        for state in &ctx.image.pipes {
            let made = match connection::is_there(ctx.image, state.id) {
                true => Ok(Pipe::Elsewhere),
                false => create(state, ghosts),
            };
            pipes.push(made.map_err(|source| RestoreError::Rebuild {
                what: name(state),
                source,
            })?);
        }
        Ok(Self(pipes))
    }

    /// Opens an end (or both) of a pipe with its final flags.
    pub(super) fn open(&mut self, id: PipeId, flags: OFlags) -> std::io::Result<OwnedFd> {
        let pipe = self.0.get_mut(id.0 as usize);
        let pipe = pipe.ok_or(std::io::ErrorKind::InvalidInput)?;
        let fd = match pipe {
            Pipe::Elsewhere => return Err(std::io::ErrorKind::InvalidInput.into()),
            Pipe::Fifo(base) => reopen(&*base, flags | OFlags::NONBLOCK)?,
            Pipe::Unnamed { reader, writer } => {
                let (original, given) = match flags & OFlags::ACCMODE {
                    OFlags::WRONLY => writer,
                    _ => reader,
                };
                let plain = !flags.intersects(OFlags::LARGEFILE | OFlags::RDWR);
                match plain && !std::mem::replace(given, *given || plain) {
                    true => original.try_clone()?,
                    false => reopen(&*original, flags | OFlags::NONBLOCK)?,
                }
            }
        };
        rustix::fs::fcntl_setfl(&fd, flags)?;
        Ok(fd)
    }
}

fn create(state: &PipeState, ghosts: &Ghosts) -> std::io::Result<Pipe> {
    if let Some(fifo) = &state.fifo {
        let both = file_ref::open(ghosts, fifo, OFlags::RDWR | OFlags::NONBLOCK)?;
        set_up(&both, state)?;
        return Ok(Pipe::Fifo(both));
    }
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    set_up(&writer, state)?;
    Ok(Pipe::Unnamed {
        reader: (reader, false),
        writer: (writer, false),
    })
}

/// Capacity, owner, contents.
fn set_up(writer: &OwnedFd, state: &PipeState) -> std::io::Result<()> {
    let meta = std::fs::File::from(writer.try_clone()?).metadata()?;
    if state.fifo.is_none() && (meta.uid(), meta.gid()) != (state.uid, state.gid) {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(state.uid),
            rustix::fs::Gid::from_raw(state.gid),
        );
        rustix::fs::fchown(writer, Some(uid), Some(gid))?;
    }
    if rustix::pipe::fcntl_getpipe_size(writer)? != state.capacity as usize {
        fcntl_setpipe_size(writer, state.capacity as usize)?;
    }
    for chunk in &state.queue {
        let mut how = OFlags::NONBLOCK;
        how.set(OFlags::DIRECT, chunk.packet);
        rustix::fs::fcntl_setfl(writer, how)?;
        let written = rustix::io::write(writer, &chunk.bytes.0)?;
        if written != chunk.bytes.0.len() {
            return Err(std::io::Error::other("its contents do not fit"));
        }
    }
    Ok(())
}

/// The pipe in a message.
pub(super) fn name(state: &PipeState) -> String {
    match &state.fifo {
        Some(file) => format!("FIFO {}", file.path),
        None => format!("pipe:[{}]", state.inode),
    }
}
