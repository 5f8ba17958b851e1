//! Restartable sequences.
//!
//! A thread that runs anything else while its instruction pointer belongs
//! inside a critical section loses that section's abort: the kernel sees an
//! address outside and forgets it. So a thread caught inside one is sent to its
//! abort handler, as the kernel itself would have done on its way back.

use super::freeze::FrozenThread;
use super::memory::Memory;
use super::peek;
use super::ptrace::TraceError;

/// Offset of `rseq_cs` in `struct rseq`.
const RSEQ_CS: u64 = 8;

/// Where the thread is inside a critical section, puts it at its abort handler.
pub(super) fn abort_section(thread: &mut FrozenThread, memory: &Memory) -> Result<(), TraceError> {
    let Some(abort_ip) = section_abort(thread, memory) else {
        return Ok(());
    };
    thread.registers.rip = abort_ip;
    match &mut thread.stopped {
        Some(stopped) => stopped.set_registers(&thread.registers),
        None => Ok(()),
    }
}

/// The abort handler of the critical section the thread is in. Memory that
/// cannot be read is no section: the kernel would kill the thread for it.
fn section_abort(thread: &FrozenThread, memory: &Memory) -> Option<u64> {
    let rseq = peek::rseq(thread.tid).ok()??;
    let section = memory.read_u64(rseq.address + RSEQ_CS).ok()?;
    if section == 0 {
        return None;
    }
    // struct rseq_cs: version, flags, start_ip, post_commit_offset, abort_ip.
    let mut words = [0; 32];
    memory.read(section, &mut words).ok()?;
    let word = |at: usize| {
        let mut w = [0; 8];
        w.copy_from_slice(&words[at..at + 8]);
        u64::from_le_bytes(w)
    };
    let (start, len, abort) = (word(8), word(16), word(24));
    (thread.registers.rip.wrapping_sub(start) < len).then_some(abort)
}
