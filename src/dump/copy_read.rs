//! Reading a worker's portion of pages from where they are.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use icecore_images::pages::PAGE_SIZE;

use super::pages::{Contents, Piece};
use crate::kernel::process_memory::{self, ProcessMemory};

/// The most pieces of a portion.
pub(super) const MAX_PIECES: usize = process_memory::MAX_PIECES;

/// A page that could not be read.
#[derive(Debug)]
pub(super) struct ReadFailure {
    pub(super) source: usize,
    /// Address or offset.
    pub(super) address: u64,
    pub(super) error: io::Error,
}

/// Fills `buf` with the pieces one after the other. Returns the addresses of
/// guard pages that only showed when they were read.
pub(super) fn read(
    contents: &Contents,
    pieces: &[Piece],
    buf: &mut [u8],
) -> Result<BTreeSet<u64>, ReadFailure> {
    match contents {
        Contents::File(file) => read_file(file, pieces, buf).map(|()| BTreeSet::new()),
        Contents::Memory {
            memory,
            hidden_guards,
        } => read_memory(memory, *hidden_guards, pieces, buf),
    }
}

/// A file's last page is padded with zeros.
fn read_file(file: &File, pieces: &[Piece], buf: &mut [u8]) -> Result<(), ReadFailure> {
    let mut rest = buf;
    for piece in pieces {
        let (mut part, tail) = rest.split_at_mut((piece.end - piece.start) as usize);
        let mut at = piece.start;
        while !part.is_empty() {
            let got = file.read_at(part, at).map_err(|error| ReadFailure {
                source: piece.source,
                address: at,
                error,
            })?;
            if got == 0 {
                part.fill(0);
                break;
            }
            at += got as u64;
            part = &mut part[got..];
        }
        rest = tail;
    }
    Ok(())
}

/// Reads as the task itself could; a page that it could not (PROT_NONE) is
/// read by force, and so are pages that must not be pinned.
fn read_memory(
    memory: &ProcessMemory,
    hidden_guards: bool,
    pieces: &[Piece],
    buf: &mut [u8],
) -> Result<BTreeSet<u64>, ReadFailure> {
    let mut guards = BTreeSet::new();
    let mut left: Vec<Piece> = pieces.to_vec();
    let mut done = 0;
    loop {
        let pinnable = left.iter().take_while(|piece| !piece.unpinned);
        let remote: Vec<_> = pinnable.map(remote_piece).collect();
        let wanted = left.first().map_or((0, 0), |p| (p.source, p.start));
        let fail = |address, error| ReadFailure {
            source: wanted.0,
            address,
            error,
        };
        let bytes = remote.iter().map(|piece| piece.len as usize).sum::<usize>();
        let got = memory
            .read_pieces(&remote, &mut buf[done..][..bytes])
            .map_err(|e| fail(wanted.1, e))?;
        // Whole pages only: a fault in the middle of one does not exist.
        let got = got as u64 / PAGE_SIZE * PAGE_SIZE;
        done += got as usize;
        skip(&mut left, got);
        let Some(&Piece { start, end, .. }) = left.first() else {
            return Ok(guards);
        };
        // A piece lies in one area, so the rest of it is no more readable.
        let rest = &mut buf[done..][..(end - start) as usize];
        match memory.force_read(start, rest) {
            Ok(()) => {}
            Err(e) if hidden_guards && is_fault(&e) => {
                let found = force_page_by_page(memory, start, rest).map_err(|e| fail(start, e))?;
                guards.extend(found);
            }
            Err(e) => return Err(fail(start, e)),
        }
        done += rest.len();
        skip(&mut left, end - start);
    }
}

/// Reads what can be read and returns the addresses of all other pages.
fn force_page_by_page(
    memory: &ProcessMemory,
    start: u64,
    buf: &mut [u8],
) -> Result<Vec<u64>, io::Error> {
    let mut guards = Vec::new();
    let addresses = (start..).step_by(PAGE_SIZE as usize);
    for (page, address) in buf.chunks_mut(PAGE_SIZE as usize).zip(addresses) {
        match memory.force_read(address, page) {
            Ok(()) => {}
            Err(e) if is_fault(&e) => guards.push(address),
            Err(e) => return Err(e),
        }
    }
    Ok(guards)
}

/// What reading an address behind which there is no page gives.
fn is_fault(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EFAULT))
}

fn remote_piece(piece: &Piece) -> process_memory::Piece {
    process_memory::Piece {
        start: piece.start,
        len: piece.end - piece.start,
    }
}

/// Takes `bytes` off the front of the pieces.
fn skip(pieces: &mut Vec<Piece>, mut bytes: u64) {
    let mut whole = 0;
    for piece in pieces.iter_mut() {
        let len = piece.end - piece.start;
        if len > bytes {
            piece.start += bytes;
            break;
        }
        bytes -= len;
        whole += 1;
    }
    pieces.drain(..whole);
}
