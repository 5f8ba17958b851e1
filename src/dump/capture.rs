//! Pages read into memory while the target stands still, to be written when it
//! goes on: what a dump with `-R` does where there is little to copy.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread::Builder;

use super::copy_read::{self, ReadFailure};
use super::pages::{Piece, Plan};
use crate::kernel::proc_text;

/// The most that is held in memory, bytes.
const MOST: u64 = 64 << 20;
/// Less than this is not worth a second thread.
const A_THREADS_WORTH: u64 = 4 << 20;

/// Memory that is there before it is needed: the target does not wait while the
/// kernel clears pages for us.
#[derive(Debug)]
pub(super) struct Room(Vec<u8>);

impl Room {
    /// Room for the memory that the process has now.
    pub(super) fn for_process(pid: u32) -> Self {
        const PAGE: usize = 4096;
        let status = proc_text::read(pid, "status").unwrap_or_default();
        let kilobytes = |key| {
            let field = proc_text::words(proc_text::field(&status, key)?).next()?;
            std::str::from_utf8(field).ok()?.parse::<u64>().ok()
        };
        let keys = ["RssAnon", "RssShmem", "VmSwap"];
        let bytes: u64 = keys.into_iter().filter_map(kilobytes).sum::<u64>() << 10;
        // A little more than it has: it goes on until it is frozen.
        let bytes = bytes + bytes / 8 + (256 << 10);
        let mut room = vec![0; if bytes > MOST { 0 } else { bytes as usize }];
        for page in room.chunks_mut(PAGE) {
            page[0] = std::hint::black_box(1);
        }
        Self(room)
    }
}

/// The contents of a plan's pieces.
#[derive(Debug)]
pub(super) struct Captured {
    bytes: Vec<u8>,
    /// Where each job's bytes begin.
    starts: Vec<usize>,
    /// Guard pages that only reading showed, by job.
    guards: Vec<BTreeSet<u64>>,
}

impl Captured {
    /// What reading job `number` anew would give.
    pub(super) fn read(&self, number: usize, buf: &mut [u8]) -> BTreeSet<u64> {
        buf.copy_from_slice(&self.bytes[self.starts[number]..][..buf.len()]);
        self.guards[number].clone()
    }
}

/// Whether the plan's pages may be held in memory.
pub(super) fn fits(plan: &Plan) -> bool {
    plan.bytes() <= MOST
}

/// Reads all pages of these jobs, which are those of the plan.
pub(super) fn read(
    plan: &Plan,
    jobs: &[Vec<Piece>],
    room: Room,
    threads: usize,
) -> Result<Captured, ReadFailure> {
    let mut bytes = room.0;
    bytes.resize(plan.bytes() as usize, 0);
    let mut starts = Vec::with_capacity(jobs.len());
    let mut work = Vec::with_capacity(jobs.len());
    let (mut rest, mut at) = (bytes.as_mut_slice(), 0);
    for job in jobs {
        let len = job.iter().map(|p| p.end - p.start).sum::<u64>() as usize;
        let (part, behind) = rest.split_at_mut(len);
        starts.push(at);
        work.push((job, part, BTreeSet::new()));
        (rest, at) = (behind, at + len);
    }
    let worthwhile = (plan.bytes() / A_THREADS_WORTH) as usize;
    read_all(plan, &mut work, threads.min(worthwhile).max(1))?;
    let guards = work.into_iter().map(|(_, _, guards)| guards).collect();
    Ok(Captured {
        bytes,
        starts,
        guards,
    })
}

/// A job, the place for its pages, and guard pages found among them.
type Work<'a> = (&'a Vec<Piece>, &'a mut [u8], BTreeSet<u64>);

fn read_all(plan: &Plan, work: &mut [Work<'_>], threads: usize) -> Result<(), ReadFailure> {
    let queue = Mutex::new(work.iter_mut());
    let next = || queue.lock().ok()?.next();
    let run = || {
        while let Some((job, part, guards)) = next() {
            *guards = copy_read::read(&plan.sources[job[0].source].contents, job, part)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        // Where there is no thread to be had, fewer do the work.
        let others: Vec<_> = (1..threads)
            .map_while(|_| Builder::new().spawn_scoped(scope, run).ok())
            .collect();
        let mut result = run();
        for other in others {
            match other.join() {
                Ok(others) => result = result.and(others),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        result
    })
}
