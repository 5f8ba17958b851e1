//! Connections whose other end lies outside the dump: taken back from their
//! keeper, as the image or the caller says.
//!
//! The plan decides what becomes of each. What is taken back are duplicates:
//! the keeper drops its own only when it is told that the task runs, and takes
//! that for granted when a restore that had come so far ends without a word.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use icecore_images::Checkpoint;
use icecore_images::connection::{ConnectionEnd, ConnectionPolicy, ConnectionState};
use icecore_images::files::{FileKind, OpenFile};
use icecore_images::ids::{DescriptionId, PipeId};
use rustix::fs::OFlags;

use super::RestoreContext;
use super::{descriptor_plan, pipe};
use crate::blocker::Place;
use crate::error::RestoreError;
use crate::keeper::{Caller, Holdings};
use crate::outside::{OutsideKind, OutsidePolicy};

/// What the plan has found out.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    keeper: Option<Caller>,
    how: BTreeMap<DescriptionId, How>,
}

/// How an end comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Keep,
}

/// Decides what becomes of each, and notes what cannot be.
pub(super) fn plan(ctx: &mut RestoreContext<'_>) {
    let image = ctx.image;
    let mut asked = None;
    for file in &image.files {
        let FileKind::Connection(state) = &file.kind else {
            continue;
        };
        let policy = policy(ctx, state);
        let wants_it_kept = matches!(policy, OutsidePolicy::Keep | OutsidePolicy::Auto);
        let why_not = match wants_it_kept {
            false => "it is not to be kept".to_owned(),
            true => match asked.get_or_insert_with(|| ask(ctx)) {
                _ if !state.kept => "the dump gave it to no keeper".to_owned(),
                Err(problem) => problem.clone(),
                Ok(kept) if kept.contains(&file.id.0) => {
                    ctx.connections.how.insert(file.id, How::Keep);
                    continue;
                }
                Ok(_) => "its keeper does not have it".to_owned(),
            },
        };
        let problem = format!("{}: {why_not}", name(image, file, state));
        let help = "--outside, with another policy";
        ctx.obstacle(place(image, file.id), problem, Some(help));
    }
}

/// The policy asked for now, else the dump's.
fn policy(ctx: &RestoreContext<'_>, state: &ConnectionState) -> OutsidePolicy {
    let (kind, inode) = match &state.end {
        ConnectionEnd::Unix(unix) => (OutsideKind::Unix, unix.inode),
        ConnectionEnd::Pipe(id) => {
            let pipe = ctx.image.pipes.get(id.0 as usize);
            (OutsideKind::Pipe, pipe.map_or(0, |pipe| pipe.inode))
        }
    };
    let asked = ctx.options.outside.find(kind, inode);
    asked.unwrap_or(match state.policy {
        ConnectionPolicy::Keep => OutsidePolicy::Keep,
        ConnectionPolicy::Reconnect => OutsidePolicy::Reconnect,
        ConnectionPolicy::Close => OutsidePolicy::Close,
        ConnectionPolicy::Auto => OutsidePolicy::Auto,
    })
}

/// What the keeper has, or why it is of no use.
fn ask(ctx: &mut RestoreContext<'_>) -> Result<Vec<u32>, String> {
    let connected = Caller::connect(&ctx.options.images_dir, ctx.image_id);
    let asked = connected.and_then(|caller| Ok((caller.list()?, caller)));
    let (Holdings { kept, lent_to, .. }, caller) = asked.map_err(|e| e.to_string())?;
    if let Some(pid) = lent_to {
        return Err(format!("its keeper has lent it to pid {pid}"));
    }
    ctx.connections.keeper = Some(caller);
    Ok(kept)
}

/// The first descriptor that means it.
fn place(image: &Checkpoint, id: DescriptionId) -> Place {
    for task in &image.tasks {
        let table = image.fd_tables.iter().find(|t| t.id == task.fd_table);
        let mut entries = table.iter().flat_map(|t| &t.entries);
        if let Some(entry) = entries.find(|e| e.description == id) {
            let (pid, fd) = (task.pid, entry.fd);
            return Place::Fd { pid, fd };
        }
    }
    Place::Machine
}

/// The connection in a message.
fn name(image: &Checkpoint, file: &OpenFile, state: &ConnectionState) -> String {
    let what = match &state.end {
        ConnectionEnd::Pipe(id) => image.pipes.get(id.0 as usize).map(pipe::name),
        ConnectionEnd::Unix(_) => None,
    };
    what.unwrap_or_else(|| descriptor_plan::name(file))
}

/// Whether the ends of a pipe come back from the keeper.
pub(super) fn is_kept(ctx: &RestoreContext<'_>, pipe: PipeId) -> bool {
    let how = &ctx.connections.how;
    let mut files = ctx.image.files.iter();
    files.any(|file| match &file.kind {
        FileKind::Connection(state) => {
            state.end == ConnectionEnd::Pipe(pipe) && how.get(&file.id) == Some(&How::Keep)
        }
        _ => false,
    })
}

/// What has come back, by description.
pub(super) type Taken = BTreeMap<u32, OwnedFd>;

impl Connections {
    /// Takes back what is kept.
    pub(super) fn take(&self) -> Result<Taken, RestoreError> {
        match &self.keeper {
            Some(keeper) if !self.how.is_empty() => keeper
                .take()
                .map_err(|source| RestoreError::Keeper { source }),
            _ => Ok(Taken::new()),
        }
    }

    /// The task is about to run: the keeper is told.
    pub(super) fn ready(&self, pid: u32) -> Result<(), RestoreError> {
        match &self.keeper {
            Some(keeper) => keeper
                .ready(pid)
                .map_err(|source| RestoreError::Keeper { source }),
            None => Ok(()),
        }
    }

    /// The task runs. Where the keeper cannot be told, it has gone already.
    pub(super) fn done(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.done();
        }
    }
}

/// A connection with its final flags.
pub(super) fn open(id: DescriptionId, flags: OFlags, taken: &mut Taken) -> io::Result<OwnedFd> {
    let Some(kept) = taken.remove(&id.0) else {
        return Err(io::Error::other("the keeper has not given it"));
    };
    rustix::fs::fcntl_setfl(&kept, flags)?;
    Ok(kept)
}
