//! Filling pages: several workers read chunks of the page files, verify them,
//! and put every piece where it belongs. No byte arrives unverified.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::Builder;
use std::time::Duration;

use icecore_images::PageReader;
use icecore_images::mm::{Backing, MmState, Vma};
use icecore_images::pages::{CHUNK_SIZE, PAGE_SIZE, PageExtent, PageSource};

use super::RestoreContext;
use super::memory::comes_back_empty;
use crate::error::RestoreError;
use crate::kernel::process_memory::{self, ProcessMemory};
use crate::kernel::shared_memory::Window;
use crate::observer::Progress;

/// Where pages go.
#[derive(Debug)]
pub(super) enum Sink<'a> {
    Memory(&'a ProcessMemory),
    /// A file and its size: what the last page holds beyond is padding.
    File(&'a File, u64),
    Window(&'a Window),
}

/// A piece of a chunk and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    file: u32,
    /// Byte in the page file.
    offset: u64,
    len: u64,
    /// Address, or offset in the sink.
    to: u64,
}

/// Why a worker stopped.
#[derive(Debug)]
enum Failure {
    Image(icecore_images::ReadError),
    Write(u64, io::Error),
}

/// Fills private pages of an address space.
pub(super) fn fill_memory(
    ctx: &mut RestoreContext<'_>,
    (mm, pages): (&MmState, &[PageExtent]),
    memory: &ProcessMemory,
) -> Result<(), RestoreError> {
    let mut extents = Vec::with_capacity(pages.len());
    let mut vmas = mm.vmas.iter().peekable();
    for extent in pages {
        while vmas.next_if(|vma| vma.end <= extent.start).is_some() {}
        // An extent may reach over several areas that touch.
        for vma in vmas.clone().take_while(|vma| vma.start < end(extent)) {
            extents.extend(clip(extent, vma).filter(|e| is_needed(ctx, vma, e)));
        }
    }
    fill(ctx, &Sink::Memory(memory), &extents, "memory")
}

fn end(extent: &PageExtent) -> u64 {
    extent.start + extent.count * PAGE_SIZE
}

/// The part of an extent that lies in an area.
fn clip(extent: &PageExtent, vma: &Vma) -> Option<PageExtent> {
    let start = extent.start.max(vma.start);
    let end = end(extent).min(vma.end);
    (start < end).then(|| PageExtent {
        start,
        count: (end - start) / PAGE_SIZE,
        source: match extent.source {
            PageSource::File { file, offset } => PageSource::File {
                file,
                offset: offset + (start - extent.start),
            },
            other => other,
        },
    })
}

/// A zero page needs nothing where untouched memory reads as zero.
fn is_needed(ctx: &RestoreContext<'_>, vma: &Vma, extent: &PageExtent) -> bool {
    let starts_empty = matches!(
        vma.backing,
        Backing::Anonymous | Backing::AnonymousHuge { .. }
    );
    let redundant = extent.source == PageSource::Zero && starts_empty;
    !redundant && !comes_back_empty(ctx, vma)
}

/// Puts `extents` into `sink`, with as many workers as the options say.
pub(super) fn fill(
    ctx: &mut RestoreContext<'_>,
    sink: &Sink<'_>,
    extents: &[PageExtent],
    what: &str,
) -> Result<(), RestoreError> {
    let zeros = extents.iter().filter(|e| e.source == PageSource::Zero);
    for extent in zeros {
        let failed = |(at, e)| describe(what, Failure::Write(at, e));
        write_zeros(sink, extent).map_err(failed)?;
    }
    let pieces = pieces(extents);
    let chunks: Vec<&[Piece]> = pieces
        .chunk_by(|a, b| (a.file, a.offset / CHUNK_SIZE) == (b.file, b.offset / CHUNK_SIZE))
        .collect();
    let shared = Shared {
        sink,
        reader: ctx.pages,
        total: pieces.iter().map(|p| p.len).sum(),
        next: AtomicUsize::new(0),
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        chunks,
    };
    let workers = worker_count(ctx.options.threads, shared.chunks.len());
    let result = work(ctx, &shared, workers);
    ctx.stats.threads = ctx.stats.threads.max(workers as u64);
    ctx.stats.pages_restored += shared.total / PAGE_SIZE;
    ctx.stats.bytes_read += shared.total;
    if ctx.options.cancel.is_cancelled() {
        return Err(RestoreError::Cancelled);
    }
    result.map_err(|failure| describe(what, failure))
}

struct Shared<'a> {
    sink: &'a Sink<'a>,
    reader: &'a PageReader,
    chunks: Vec<&'a [Piece]>,
    total: u64,
    next: AtomicUsize,
    done: AtomicU64,
    stop: AtomicBool,
}

/// Cut at the borders of chunks, in the order of the page files.
fn pieces(extents: &[PageExtent]) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(extents.len());
    for extent in extents {
        let PageSource::File { file, mut offset } = extent.source else {
            continue;
        };
        let (mut to, end) = (extent.start, end(extent));
        while to < end {
            let len = (CHUNK_SIZE - offset % CHUNK_SIZE).min(end - to);
            pieces.push(Piece {
                file,
                offset,
                len,
                to,
            });
            to += len;
            offset += len;
        }
    }
    pieces.sort_unstable_by_key(|p| (p.file, p.offset));
    pieces
}

fn worker_count(wanted: Option<usize>, chunks: usize) -> usize {
    /// More only wait for each other in the task's address space.
    const MOST: usize = 8;
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    wanted
        .unwrap_or_else(|| cores().min(MOST))
        .clamp(1, chunks.max(1))
}

fn work(ctx: &RestoreContext<'_>, shared: &Shared<'_>, workers: usize) -> Result<(), Failure> {
    let run = || {
        let result = fill_chunks(ctx, shared);
        shared.stop.fetch_or(result.is_err(), Ordering::Relaxed);
        result
    };
    std::thread::scope(|scope| {
        // Where there is no thread to be had, fewer do the work.
        let others: Vec<_> = (1..workers)
            .map_while(|_| Builder::new().spawn_scoped(scope, run).ok())
            .collect();
        let mut result = run();
        for other in others {
            match other.join() {
                Ok(theirs) => result = result.and(theirs),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        result
    })
}

fn fill_chunks(ctx: &RestoreContext<'_>, shared: &Shared<'_>) -> Result<(), Failure> {
    let mut buffer = vec![0; CHUNK_SIZE as usize];
    while !shared.stop.load(Ordering::Relaxed) && !ctx.options.cancel.is_cancelled() {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let Some(pieces) = shared.chunks.get(number) else {
            break;
        };
        let (file, index) = (pieces[0].file, pieces[0].offset / CHUNK_SIZE);
        let chunk = shared
            .reader
            .read_chunk(file, index as usize, &mut buffer)
            .map_err(Failure::Image)?;
        for group in pieces.chunks(process_memory::MAX_PIECES) {
            write(shared.sink, group, chunk).map_err(|(at, e)| Failure::Write(at, e))?;
        }
        let len: u64 = pieces.iter().map(|p| p.len).sum();
        ctx.options.observer.progress(Progress {
            total_bytes: shared.total,
            done_bytes: shared.done.fetch_add(len, Ordering::Relaxed) + len,
            frozen: Duration::ZERO,
        });
    }
    Ok(())
}

type WriteFailure = (u64, io::Error);

/// Writes the pieces of one chunk.
fn write(sink: &Sink<'_>, pieces: &[Piece], chunk: &[u8]) -> Result<(), WriteFailure> {
    let mut parts = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let from = (piece.offset % CHUNK_SIZE) as usize;
        // Extents are checked against the lengths of page files when an image
        // is opened; a chunk that is shorter is an error all the same.
        let part = chunk
            .get(from..from + piece.len as usize)
            .ok_or_else(|| (piece.to, io::ErrorKind::UnexpectedEof.into()))?;
        parts.push((piece.to, part));
    }
    match sink {
        Sink::Memory(memory) => write_memory(memory, &parts),
        Sink::File(file, size) => write_each(&parts, |to, part| {
            let within = size.saturating_sub(to).min(part.len() as u64);
            file.write_all_at(&part[..within as usize], to)
        }),
        Sink::Window(window) => write_each(&parts, |to, part| window.write_at(part, to)),
    }
}

fn write_each(
    parts: &[(u64, &[u8])],
    mut write: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> Result<(), WriteFailure> {
    let mut each = parts.iter();
    each.try_for_each(|&(to, part)| write(to, part).map_err(|e| (to, e)))
}

/// As the task itself would; what it could not write (never writable memory
/// that a debugger once wrote to) is forced.
fn write_memory(memory: &ProcessMemory, parts: &[(u64, &[u8])]) -> Result<(), WriteFailure> {
    let mut rest = parts.to_vec();
    while let Some(&(to, part)) = rest.first() {
        let remote: Vec<_> = rest.iter().map(|&(to, part)| piece_of(to, part)).collect();
        let local: Vec<&[u8]> = rest.iter().map(|&(_, part)| part).collect();
        let mut done = memory.write_pieces(&remote, &local).map_err(|e| (to, e))?;
        if done == 0 {
            memory.force_write(to, part).map_err(|e| (to, e))?;
            done = part.len();
        }
        skip(&mut rest, done);
    }
    Ok(())
}

fn piece_of(start: u64, bytes: &[u8]) -> process_memory::Piece {
    let len = bytes.len() as u64;
    process_memory::Piece { start, len }
}

fn skip(parts: &mut Vec<(u64, &[u8])>, mut bytes: usize) {
    let mut whole = 0;
    for (to, part) in parts.iter_mut() {
        if part.len() > bytes {
            *to += bytes as u64;
            *part = &part[bytes..];
            break;
        }
        bytes -= part.len();
        whole += 1;
    }
    parts.drain(..whole);
}

fn write_zeros(sink: &Sink<'_>, extent: &PageExtent) -> Result<(), WriteFailure> {
    let zeros = [0; PAGE_SIZE as usize];
    for to in (extent.start..end(extent)).step_by(PAGE_SIZE as usize) {
        match sink {
            Sink::Memory(memory) => write_memory(memory, &[(to, &zeros)])?,
            // These start out as zeros.
            Sink::File(..) | Sink::Window(_) => {}
        }
    }
    Ok(())
}

fn describe(what: &str, failure: Failure) -> RestoreError {
    match failure {
        Failure::Image(error) => RestoreError::Image(error),
        Failure::Write(at, source) => RestoreError::Rebuild {
            what: format!("{what} at {at:#x}"),
            source,
        },
    }
}
