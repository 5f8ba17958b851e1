//! Descriptors that are under way: sent with SCM_RIGHTS and not received yet.
//!
//! To find them the queues they are in are looked at, which gives us duplicates
//! of them. A socket among them may have a queue of its own, and so on.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsRawFd, OwnedFd};

use icecore_images::files::FileKind;
use icecore_images::ids::FdTableId;
use rustix::net::{AddressFamily, sockopt};

use super::DumpContext;
use super::descriptor::{Descriptor, Table};
use super::descriptors::{Collection, named};
use super::{unix, unix_queue};
use crate::error::DumpError;

/// No task's table.
const NOBODY: FdTableId = FdTableId(u32::MAX);

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Flight {
    /// Queues with descriptors in them, by the socket's inode number.
    queues: RefCell<HashMap<u64, Queue>>,
    /// Our duplicates.
    held: Vec<OwnedFd>,
}

/// A queue that has been read.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Without descriptors.
    pub(super) read: unix_queue::Queue,
    /// For each record, the indices of its descriptors.
    pub(super) rights: Vec<Vec<usize>>,
}

impl Flight {
    /// The queue of a socket, if descriptors are in it.
    pub(super) fn take(&self, inode: u64) -> Option<Queue> {
        self.queues.borrow_mut().remove(&inode)
    }
}

/// Adds what is under way to `descriptors`.
pub(super) fn gather(
    ctx: &mut DumpContext<'_>,
    descriptors: &mut Vec<Descriptor>,
) -> Result<Flight, DumpError> {
    let mut flight = Flight::default();
    let mut seen = HashSet::new();
    let mut at = 0;
    // What is added is looked at in its turn.
    while at < descriptors.len() {
        let d = &descriptors[at];
        at += 1;
        if !unix::is_socket(d) || !seen.insert(d.key()) || !has_some(d) {
            continue;
        }
        let socket = d.duplicate()?;
        let error = |e| d.error("socket", e);
        let unix = sockopt::socket_domain(&socket).map_err(|e| error(e.into()))?;
        let listens = sockopt::socket_acceptconn(&socket).unwrap_or(false);
        let Some(kind) = unix::kind_of(&socket).filter(|_| unix == AddressFamily::UNIX) else {
            continue;
        };
        if listens {
            continue;
        }
        // Where it cannot be read, it says so when it is described.
        if let Ok(read) = ctx.unix_queues.read(&socket, kind).map_err(error)? {
            let (inode, place) = (d.key().1, d.place.clone());
            let queue = flight.hold(read, &place, descriptors)?;
            flight.queues.borrow_mut().insert(inode, queue);
        }
    }
    // What the guardian holds would look like an end outside.
    let read = std::mem::take(&mut ctx.unix_queues).finish();
    read.map_err(|source| DumpError::Guardian { source })?;
    let numbers = flight.held.iter().map(|fd| fd.as_raw_fd() as u32);
    ctx.members.ours.extend(numbers);
    Ok(flight)
}

fn has_some(d: &Descriptor) -> bool {
    let text = std::fs::read_to_string(d.info_path()).unwrap_or_default();
    let mut counts = text.lines().filter_map(|l| l.strip_prefix("scm_fds:"));
    counts.any(|count| count.trim() != "0")
}

impl Flight {
    fn hold(
        &mut self,
        mut read: unix_queue::Queue,
        place: &crate::blocker::Place,
        descriptors: &mut Vec<Descriptor>,
    ) -> Result<Queue, DumpError> {
        let own = Table {
            id: NOBODY,
            pid: std::process::id(),
            tid: std::process::id(),
        };
        let mut rights = Vec::new();
        for record in &mut read.records {
            let mut of_record = Vec::new();
            for fd in record.rights.drain(..) {
                let mut descriptor = own.descriptor(fd.as_raw_fd() as u32)?;
                descriptor.place = place.clone();
                of_record.push(descriptors.len());
                descriptors.push(descriptor);
                self.held.push(fd);
            }
            rights.push(of_record);
        }
        Ok(Queue { read, rights })
    }
}

/// Why a description that is under way cannot be carried, if it cannot.
pub(super) fn problem(
    all: &Collection,
    id: usize,
    kind: &FileKind,
    signals: bool,
) -> Option<String> {
    let holders = || all.holders[id].iter().map(|&at| &all.descriptors[at]);
    let mut under_way = holders().filter(|d| d.table.id == NOBODY);
    let d = under_way.next()?;
    let only = holders().all(|d| d.table.id == NOBODY);
    let what = match kind {
        FileKind::PidFd(_) => "a pidfd",
        FileKind::Proc(_) => "a file of /proc",
        FileKind::Connection(_) => "a connection to the outside",
        FileKind::Epoll(_) if only => "an epoll instance",
        FileKind::TimerFd(_) if only => "a timerfd",
        _ if only && !d.info.locks.is_empty() => "a file with locks",
        _ if only && signals => "a descriptor that sends signals",
        _ => return None,
    };
    Some(format!("{what} is under way (SCM_RIGHTS): {}", named(d)))
}
