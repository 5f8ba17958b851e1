//! Extended registers: x87, SSE, AVX, AVX-512, PKRU and whatever else the CPU
//! has.

use std::io;

use icecore_images::ByteString;
use icecore_images::thread::XState;

use crate::kernel::cpu;
use crate::tracer::peek;

/// Where the kernel writes XCR0 into the area it hands out.
const XCR0_AT: usize = 464;

/// The whole area of a stopped thread.
pub(super) fn collect(tid: u32) -> io::Result<XState> {
    let area = peek::xstate(tid)?;
    let mut xcr0 = [0; 8];
    // An area without an XSAVE header: a CPU with x87 and SSE alone.
    let Some(bytes) = area.get(XCR0_AT..XCR0_AT + 8) else {
        return Ok(XState {
            xcr0: 0b11,
            layout: Vec::new(),
            area: ByteString(area),
        });
    };
    xcr0.copy_from_slice(bytes);
    let xcr0 = u64::from_le_bytes(xcr0);
    Ok(XState {
        xcr0,
        layout: cpu::xsave_layout(xcr0),
        area: ByteString(area),
    })
}
