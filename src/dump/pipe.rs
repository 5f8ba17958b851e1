//! Pipes and FIFOs.
//!
//! Queued data is read with tee(2) into a pipe of ours: nothing is consumed.
//! A pipe that somebody outside the dump holds as well is refused: who they
//! are is found by looking through `/proc/*/fd`, and whether the other end is
//! held by somebody who cannot be seen, by poll(2).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use icecore_images::files::FileKind;
use icecore_images::ids::PipeId;
use icecore_images::pipe::{PipeEnd, PipeState};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;

use super::DumpContext;
use super::connection::{self, Options, OutsidePipe, Said};
use super::descriptors::{Collection, named};
use super::file_ref;
use super::outside::{self, Holder};
use super::pipe_queue;
use crate::blocker::Place;
use crate::error::DumpError;
use crate::outside::OutsideKind;

/// The ends of one pipe that tasks of the dump hold.
#[derive(Debug)]
pub(super) struct Ends {
    id: PipeId,
    key: (u64, u64),
    named: String,
    fifo: bool,
    place: Place,
    /// `/proc/PID/fd/N` of one of them.
    link: std::path::PathBuf,
    /// Our duplicates of an end that reads and of one that writes.
    reader: Option<OwnedFd>,
    writer: Option<OwnedFd>,
    /// A writer is in packet mode.
    packets: bool,
}

/// An end of a pipe; the pipe itself is finished when all ends are known.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    all: &mut Collection,
    at: usize,
) -> Result<Option<FileKind>, DumpError> {
    let d = &all.descriptors[at];
    let key = d.key();
    if !all.pipes.contains_key(&key) {
        match start(ctx, all, at)? {
            Some(ends) => all.pipes.insert(key, ends),
            None => return Ok(None),
        };
    }
    let d = &all.descriptors[at];
    let duplicate = d.duplicate()?;
    let Some(ends) = all.pipes.get_mut(&key) else {
        return Ok(None);
    };
    if d.writes() {
        ends.packets |= d.flags() & libc::O_DIRECT as u32 != 0;
        ends.writer
            .get_or_insert(duplicate.try_clone().map_err(|e| d.error("copy", e))?);
    }
    if d.reads() {
        ends.reader.get_or_insert(duplicate);
    }
    Ok(Some(FileKind::Pipe(PipeEnd { pipe: ends.id })))
}

fn start(
    ctx: &mut DumpContext<'_>,
    all: &Collection,
    at: usize,
) -> Result<Option<Ends>, DumpError> {
    let d = &all.descriptors[at];
    let is_fifo = d.shown_bytes().starts_with(b"/");
    let fifo = match is_fifo {
        true => match file_ref::describe(ctx, d.link())? {
            Some(file) => Some(file),
            None => return Ok(None),
        },
        false => None,
    };
    let duplicate = d.duplicate()?;
    let capacity =
        rustix::pipe::fcntl_getpipe_size(&duplicate).map_err(|e| d.error("capacity", e.into()))?;
    let id = PipeId(ctx.tables.pipes.len() as u32);
    ctx.tables.pipes.push(PipeState {
        id,
        inode: d.meta.ino(),
        fifo,
        capacity: capacity as u32,
        queue: Vec::new(),
        uid: d.meta.uid(),
        gid: d.meta.gid(),
    });
    Ok(Some(Ends {
        id,
        key: d.key(),
        named: named(d),
        fifo: is_fifo,
        place: d.place.clone(),
        link: d.link.clone(),
        reader: None,
        writer: None,
        packets: false,
    }))
}

/// Reads the queues, and refuses pipes that are held outside.
pub(super) fn finish(
    ctx: &mut DumpContext<'_>,
    pipes: &BTreeMap<(u64, u64), Ends>,
) -> Result<Vec<OutsidePipe>, DumpError> {
    let mut outside = Vec::new();
    if pipes.is_empty() {
        return Ok(outside);
    }
    let ours = |ends: &Ends| {
        use std::os::fd::AsRawFd;
        let fds = [&ends.reader, &ends.writer];
        fds.map(|fd| fd.as_ref().map(|fd| fd.as_raw_fd() as u32))
    };
    let ours: HashSet<u32> = pipes.values().flat_map(ours).flatten().collect();
    let keys: Vec<_> = pipes.values().map(|p| (p.key, p.named.as_str())).collect();
    let holders = super::outside::holders(&keys, &ctx.members, &ours);
    for ends in pipes.values() {
        if let Some(problem) = outside_problem(ends, &holders) {
            let reconnect = match ends.fifo {
                true => Ok(()),
                false => Err("a pipe has no address"),
            };
            let said = Said {
                problem: &problem,
                options: Options {
                    reconnect,
                    close: Ok(()),
                },
            };
            let (kind, inode) = (OutsideKind::Pipe, ends.key.1);
            let Some(policy) = connection::decide(ctx, &ends.place, kind, inode, &said) else {
                continue;
            };
            let id = ends.id;
            outside.push(OutsidePipe { id, policy });
        }
        let queue = read_queue(ends).map_err(|source| DumpError::Read {
            pid: ctx.options.pid,
            what: format!("queue of {}", ends.named),
            source,
        })?;
        match queue {
            Some(queue) => ctx.tables.pipes[ends.id.0 as usize].queue = queue,
            None => {
                let problem = format!("{}: its queue does not fit a pipe of ours", ends.named);
                ctx.block(ends.place.clone(), problem, Some("CAP_SYS_RESOURCE"));
            }
        }
    }
    Ok(outside)
}

fn read_queue(ends: &Ends) -> std::io::Result<Option<Vec<icecore_images::pipe::PipeChunk>>> {
    match &ends.reader {
        Some(reader) => pipe_queue::peek(reader, ends.packets),
        // Nobody can ever read what is in a pipe without a reader; a FIFO's
        // next reader can.
        None if !ends.fifo => Ok(Some(Vec::new())),
        None => {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let reader = rustix::fs::open(&ends.link, flags, rustix::fs::Mode::empty())?;
            pipe_queue::peek(&reader, ends.packets)
        }
    }
}

fn outside_problem(ends: &Ends, holders: &HashMap<(u64, u64), Vec<Holder>>) -> Option<String> {
    let holders = holders.get(&ends.key).map_or(&[][..], Vec::as_slice);
    let end = match (&ends.reader, &ends.writer) {
        (Some(_), Some(_)) => "both ends",
        (Some(_), None) => "the read end",
        _ => "the write end",
    };
    let who = match holders {
        [] if ends.other_end_is_open() => "a process that icecore cannot see".to_owned(),
        [] => return None,
        some => outside::list(some),
    };
    let kind = if ends.fifo { "FIFO " } else { "" };
    let queued = ends.queued();
    Some(format!(
        "{end} of {kind}{}, {queued} bytes queued; it is also held by {who}, outside the dump",
        ends.named
    ))
}

impl Ends {
    /// Whether somebody holds the end that no task of the dump holds.
    fn other_end_is_open(&self) -> bool {
        let (fd, closed) = match (&self.reader, &self.writer) {
            (Some(reader), None) => (reader, PollFlags::HUP),
            (None, Some(writer)) => (writer, PollFlags::ERR),
            _ => return false,
        };
        let mut fds = [PollFd::new(fd, PollFlags::empty())];
        let polled = poll(&mut fds, Some(&rustix::time::Timespec::default()));
        // A FIFO that was never written to does not hang up; no writer can
        // then be told from none that ever was, and the scan is all there is.
        polled.is_ok() && !fds[0].revents().contains(closed) && !self.fifo
    }

    fn queued(&self) -> u64 {
        let fd = self.reader.as_ref().or(self.writer.as_ref());
        fd.and_then(|fd| rustix::io::ioctl_fionread(fd).ok())
            .unwrap_or(0)
    }
}
