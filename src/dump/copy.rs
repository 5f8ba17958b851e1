//! Copying pages into a page file, by several workers.
//!
//! Each worker reads pieces into a buffer, throws out pages that are zero, and
//! whenever it has a chunk together computes its checksum and writes it at the
//! next free place of the file. What the workers have left in the end, less
//! than a chunk each, is put together by the caller. Nothing is copied twice
//! but what moves up to close a gap.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::Builder;
use std::time::Duration;

use icecore_images::pages::{
    CHUNK_SIZE, PAGE_SIZE, PageCodec, PageExtent, PageFile, PageSource, chunk_checksum,
};

use super::DumpContext;
use super::capture::{self, Room};
use super::copy_read::{self, ReadFailure};
use super::pages::{Copied, Owner, Piece, Plan};
use crate::error::DumpError;
use crate::observer::Progress;

/// Bytes read at a time, and of a chunk.
const CHUNK: usize = CHUNK_SIZE as usize;
const PAGE: usize = PAGE_SIZE as usize;

/// What the workers share.
struct Shared<'a> {
    plan: &'a Plan,
    jobs: Vec<Vec<Piece>>,
    file: &'a File,
    /// Its number.
    file_number: u32,
    next_job: AtomicUsize,
    next_chunk: AtomicU64,
    stop: AtomicBool,
    done_bytes: AtomicU64,
}

/// Why a worker stopped.
#[derive(Debug)]
enum Failure {
    Read(ReadFailure),
    Write(io::Error),
}

/// Copies everything in `plan` into `file`, page file number `number`.
pub(super) fn run(
    ctx: &mut DumpContext<'_>,
    plan: &Plan,
    file: &File,
    number: u32,
) -> Result<Copied, DumpError> {
    let shared = Shared {
        plan,
        jobs: jobs(&plan.pieces),
        file,
        file_number: number,
        next_job: AtomicUsize::new(0),
        next_chunk: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        done_bytes: AtomicU64::new(0),
    };
    let workers = worker_count(ctx.options.threads, shared.jobs.len());
    ctx.stats.threads = workers as u64;
    ctx.stats.engine = "process_vm_readv".to_owned();
    let watch = Watch {
        ctx,
        total: plan.bytes(),
    };
    let results = work(&shared, workers, &watch);
    if ctx.options.cancel.is_cancelled() {
        return Err(DumpError::Cancelled);
    }
    let mut done = Vec::with_capacity(workers);
    for result in results {
        done.push(result.map_err(|failure| describe(ctx, plan, failure))?);
    }
    merge(&shared, done).map_err(|e| describe(ctx, plan, Failure::Write(e)))
}

/// Reads the contents of everything in `plan`, to be written later.
pub(super) fn capture(ctx: &DumpContext<'_>, plan: &mut Plan, room: Room) -> Result<(), DumpError> {
    let jobs = jobs(&plan.pieces);
    let threads = worker_count(ctx.options.threads, jobs.len());
    let captured = capture::read(plan, &jobs, room, threads);
    plan.captured = Some(captured.map_err(|e| describe(ctx, plan, Failure::Read(e)))?);
    Ok(())
}

/// Runs the workers, the calling thread being one of them.
fn work(shared: &Shared<'_>, workers: usize, watch: &Watch<'_>) -> Vec<Result<Worker, Failure>> {
    let run = || {
        let result = Worker::new(shared.plan.sources.len()).run(shared, watch);
        // Whoever fails stops the others; whoever has nothing left does no harm.
        shared.stop.fetch_or(result.is_err(), Ordering::Relaxed);
        result
    };
    std::thread::scope(|scope| {
        // Where there is no thread to be had, fewer do the work.
        let others: Vec<_> = (1..workers)
            .map_while(|_| Builder::new().spawn_scoped(scope, run).ok())
            .collect();
        let mut results = vec![run()];
        for other in others {
            match other.join() {
                Ok(result) => results.push(result),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    })
}

/// More workers than this only wait for each other in the page cache.
const MOST_WORKERS: usize = 8;

fn worker_count(wanted: Option<usize>, jobs: usize) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let wanted = wanted.unwrap_or_else(|| cores().min(MOST_WORKERS));
    wanted.clamp(1, jobs.max(1))
}

/// Cuts the pieces into portions of at most a chunk, each from one source.
fn jobs(pieces: &[Piece]) -> Vec<Vec<Piece>> {
    let mut jobs: Vec<Vec<Piece>> = Vec::new();
    let mut room = 0;
    for piece in pieces {
        let mut at = piece.start;
        while at < piece.end {
            let fits = jobs.last().is_some_and(|job| {
                room > 0
                    && job.len() < copy_read::MAX_PIECES
                    && job.last().is_some_and(|p| p.source == piece.source)
            });
            if !fits {
                jobs.push(Vec::new());
                room = CHUNK_SIZE;
            }
            let len = room.min(piece.end - at);
            if let Some(job) = jobs.last_mut() {
                job.push(Piece {
                    source: piece.source,
                    start: at,
                    end: at + len,
                    unpinned: piece.unpinned,
                });
            }
            room -= len;
            at += len;
        }
    }
    jobs
}

/// A worker's part of the image.
struct Worker {
    /// One chunk in the making, and room for a job behind it.
    buffer: Vec<u8>,
    filled: usize,
    /// Where each chunk it has written went, with its checksum.
    chunks: Vec<(u64, u32)>,
    /// Extents by source; offsets count the worker's own bytes.
    extents: Vec<Vec<PageExtent>>,
    guards: Vec<(usize, u64, u64)>,
    written: u64,
    zero: u64,
}

impl Worker {
    fn new(sources: usize) -> Self {
        Self {
            buffer: vec![0; 2 * CHUNK],
            filled: 0,
            chunks: Vec::new(),
            extents: vec![Vec::new(); sources],
            guards: Vec::new(),
            written: 0,
            zero: 0,
        }
    }

    fn run(mut self, shared: &Shared<'_>, watch: &Watch<'_>) -> Result<Self, Failure> {
        while !shared.stop.load(Ordering::Relaxed) && !watch.ctx.options.cancel.is_cancelled() {
            let number = shared.next_job.fetch_add(1, Ordering::Relaxed);
            let Some(job) = shared.jobs.get(number) else {
                break;
            };
            self.take(shared, number, job).map_err(Failure::Read)?;
            if self.filled >= CHUNK {
                self.write_chunk(shared).map_err(Failure::Write)?;
            }
            watch.tell(&shared.done_bytes, job);
        }
        Ok(self)
    }

    /// Reads a job behind what is there already and keeps what is not zero.
    fn take(
        &mut self,
        shared: &Shared<'_>,
        number: usize,
        job: &[Piece],
    ) -> Result<(), ReadFailure> {
        let len: u64 = job.iter().map(|p| p.end - p.start).sum();
        let space = &mut self.buffer[self.filled..][..len as usize];
        let source = job[0].source;
        let plan = shared.plan;
        let guards = match &plan.captured {
            Some(captured) => captured.read(number, space),
            None => copy_read::read(&plan.sources[source].contents, job, space)?,
        };
        let mut from = self.filled;
        for piece in job {
            for address in (piece.start..piece.end).step_by(PAGE) {
                if !guards.contains(&address) {
                    self.keep(shared.file_number, source, address, from);
                }
                from += PAGE;
            }
        }
        let guards = guards.into_iter();
        self.guards
            .extend(guards.map(|at| (source, at, at + PAGE_SIZE)));
        Ok(())
    }

    /// Keeps the page at `from` in the buffer, which belongs to `address`.
    fn keep(&mut self, file: u32, source: usize, address: u64, from: usize) {
        let zero = self.buffer[from..from + PAGE] == ZERO_PAGE;
        let place = if zero {
            self.zero += 1;
            PageSource::Zero
        } else {
            if from != self.filled {
                self.buffer.copy_within(from..from + PAGE, self.filled);
            }
            let offset = (self.chunks.len() * CHUNK + self.filled) as u64;
            self.filled += PAGE;
            self.written += 1;
            PageSource::File { file, offset }
        };
        push_extent(&mut self.extents[source], address, 1, place);
    }

    fn write_chunk(&mut self, shared: &Shared<'_>) -> io::Result<()> {
        let number = shared.next_chunk.fetch_add(1, Ordering::Relaxed);
        let chunk = &self.buffer[..CHUNK];
        shared.file.write_all_at(chunk, number * CHUNK_SIZE)?;
        self.chunks.push((number, chunk_checksum(chunk)));
        self.buffer.copy_within(CHUNK..self.filled, 0);
        self.filled -= CHUNK;
        Ok(())
    }

    /// The place in the file of byte `offset` of the worker's own, and how far
    /// the same holds; `tail` is where its last bytes went.
    fn place(&self, offset: u64, tail: u64) -> (u64, u64) {
        let (chunk, within) = (offset / CHUNK_SIZE, offset % CHUNK_SIZE);
        match self.chunks.get(chunk as usize) {
            Some((number, _)) => (number * CHUNK_SIZE + within, CHUNK_SIZE - within),
            None => (tail + within, u64::MAX),
        }
    }
}

const ZERO_PAGE: [u8; PAGE] = [0; PAGE];

/// Appends pages to extents, to the last one where they continue it.
fn push_extent(extents: &mut Vec<PageExtent>, start: u64, count: u64, source: PageSource) {
    if let Some(last) = extents.last_mut()
        && last.start + last.count * PAGE_SIZE == start
        && continues(last, source)
    {
        last.count += count;
        return;
    }
    extents.push(PageExtent {
        start,
        count,
        source,
    });
}

fn continues(last: &PageExtent, next: PageSource) -> bool {
    match (last.source, next) {
        (PageSource::File { file, offset }, PageSource::File { file: f, offset: o }) => {
            f == file && o == offset + last.count * PAGE_SIZE
        }
        (a, b) => a == b,
    }
}

/// Writes what the workers have left and joins what they have noted.
fn merge(shared: &Shared<'_>, workers: Vec<Worker>) -> io::Result<Copied> {
    let full_chunks = shared.next_chunk.load(Ordering::Relaxed);
    let mut chunks = vec![0; full_chunks as usize];
    let mut rest = Vec::new();
    let mut copied = Copied {
        extents: vec![Vec::new(); shared.plan.sources.len()],
        ..Copied::default()
    };
    for worker in workers {
        let tail = full_chunks * CHUNK_SIZE + rest.len() as u64;
        rest.extend_from_slice(&worker.buffer[..worker.filled]);
        for (number, checksum) in &worker.chunks {
            chunks[*number as usize] = *checksum;
        }
        for (all, own) in copied.extents.iter_mut().zip(&worker.extents) {
            own.iter()
                .for_each(|extent| relocate(all, extent, &worker, tail));
        }
        copied.guards.extend(worker.guards);
        copied.pages_written += worker.written;
        copied.pages_zero += worker.zero;
    }
    shared.file.write_all_at(&rest, full_chunks * CHUNK_SIZE)?;
    chunks.extend(rest.chunks(CHUNK).map(chunk_checksum));
    copied.page_file = Some(PageFile {
        length: full_chunks * CHUNK_SIZE + rest.len() as u64,
        codec: PageCodec::Raw,
        chunks,
    });
    copied.guards.sort_unstable();
    copied.extents.iter_mut().for_each(join_extents);
    Ok(copied)
}

/// Appends a worker's extent with its true places in the file.
fn relocate(all: &mut Vec<PageExtent>, extent: &PageExtent, worker: &Worker, tail: u64) {
    let PageSource::File { file, offset } = extent.source else {
        all.push(*extent);
        return;
    };
    let mut done = 0;
    while done < extent.count {
        let (at, room) = worker.place(offset + done * PAGE_SIZE, tail);
        let count = (extent.count - done).min(room / PAGE_SIZE);
        let source = PageSource::File { file, offset: at };
        all.push(PageExtent {
            start: extent.start + done * PAGE_SIZE,
            count,
            source,
        });
        done += count;
    }
}

/// Puts extents in order and joins those that continue each other.
pub(super) fn join_extents(extents: &mut Vec<PageExtent>) {
    extents.sort_unstable_by_key(|extent| extent.start);
    let mut joined = Vec::with_capacity(extents.len());
    for extent in extents.drain(..) {
        push_extent(&mut joined, extent.start, extent.count, extent.source);
    }
    *extents = joined;
}

/// Tells the observer how far things are.
struct Watch<'a> {
    ctx: &'a DumpContext<'a>,
    total: u64,
}

impl Watch<'_> {
    fn tell(&self, done: &AtomicU64, job: &[Piece]) {
        let len: u64 = job.iter().map(|p| p.end - p.start).sum();
        self.ctx.options.observer.progress(Progress {
            total_bytes: self.total,
            done_bytes: done.fetch_add(len, Ordering::Relaxed) + len,
            frozen: self
                .ctx
                .frozen_since
                .map_or(Duration::ZERO, |since| since.elapsed()),
        });
    }
}

fn describe(ctx: &DumpContext<'_>, plan: &Plan, failure: Failure) -> DumpError {
    match failure {
        Failure::Write(source) => DumpError::Write {
            path: ctx.options.images_dir.join("pages-0"),
            source,
        },
        Failure::Read(ReadFailure {
            source: number,
            address,
            error,
        }) => {
            let what = match plan.sources[number].owner {
                Owner::Mm(_) => format!("the page at {address:#x}"),
                Owner::Shmem(i) => {
                    let object = &ctx.tables.shmems[i];
                    format!("shared memory object {} at {address:#x}", object.inode)
                }
                Owner::Ghost(i) => {
                    let path = &ctx.tables.ghosts[i].path;
                    format!("deleted file {path} at {address:#x}")
                }
            };
            DumpError::Read {
                pid: ctx.options.pid,
                what,
                source: error,
            }
        }
    }
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
