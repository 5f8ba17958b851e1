//! The extended state of a thread: an XSAVE area in the standard format.

use super::numbers::{bits, count, within};
use super::problem::{Found, Problem};
use crate::thread::XState;

/// Legacy region and header.
const MIN_SIZE: usize = 576;

/// More than any processor has (AMX tiles take 8 KiB).
const MAX_SIZE: usize = 1 << 16;

/// Where the header starts.
const HEADER: usize = 512;

/// x87 and SSE are always there.
const ALWAYS: u64 = 3;

pub(super) fn check(state: &XState) -> Found {
    let area = &state.area.0;
    count("bytes of extended state", area.len(), MIN_SIZE..=MAX_SIZE)?;
    if state.xcr0 & ALWAYS != ALWAYS {
        let (what, value) = ("xcr0", state.xcr0);
        return Err(Problem::Unknown { what, value });
    }
    bits("XSTATE_BV", word(area, HEADER), state.xcr0)?;
    // The compacted format would say so here; the rest of the header is
    // reserved.
    for at in (HEADER + 8..MIN_SIZE).step_by(8) {
        bits("header of the extended state", word(area, at), 0)?;
    }
    let mxcsr = word(area, 24) & 0xffff_ffff;
    bits("MXCSR", mxcsr, 0xffff)?;
    layout(state)
}

/// Components that are in use lie within the area.
fn layout(state: &XState) -> Found {
    let area = &state.area.0;
    count("components of extended state", state.layout.len(), 0..=64)?;
    for component in &state.layout {
        within("component of extended state", component.number, 0..=63)?;
        let used = word(area, HEADER) >> component.number & 1 == 1;
        let start = u64::from(component.offset);
        let end = start + u64::from(component.size);
        if used && end > area.len() as u64 {
            return Err(Problem::Outside {
                what: "component of extended state",
                start,
                end,
                within: "the area",
            });
        }
    }
    Ok(())
}

/// The little-endian word at an offset; 0 behind the end.
fn word(area: &[u8], at: usize) -> u64 {
    let bytes = area.get(at..).and_then(|rest| rest.first_chunk::<8>());
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
