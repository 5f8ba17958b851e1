//! The rest of waits that a freeze has cut short.
//!
//! A call that the kernel issues again is given the time that remains. Where it
//! takes its time-out through a pointer, that time lies in the tail of the
//! vDSO, behind the stub, until the kernel has fetched it. (The register that
//! held the time-out keeps what it was given, as registers that hold arguments
//! may after any call of the C library.)

use std::time::{Duration, Instant};

use icecore_images::thread::Registers;

use super::freeze::FrozenTask;
use super::interrupted::{ERESTARTNOHAND, restarted_call};
use super::timeout::{Place, Timeout};
use crate::kernel::proc_text;

/// How long threads are given to fetch their time-outs.
const FETCH: Duration = Duration::from_millis(100);

/// A time-out that lies in a slot.
struct Lent {
    tid: u32,
    slot: u64,
}

impl FrozenTask {
    /// Lets all threads go, each with what remains of its wait now.
    pub(super) fn resume_threads(&mut self) -> Result<(), super::ptrace::TraceError> {
        let mut lent = Vec::new();
        for index in 0..self.threads.len() {
            self.give_rest(index, &mut lent)?;
        }
        for thread in std::mem::take(&mut self.threads) {
            match thread.detach() {
                // It was killed while it was frozen.
                Err(e) if e.is_gone() => {}
                other => other?,
            }
        }
        self.take_back(&lent);
        Ok(())
    }

    fn give_rest(
        &mut self,
        index: usize,
        lent: &mut Vec<Lent>,
    ) -> Result<(), super::ptrace::TraceError> {
        let thread = &self.threads[index];
        let Some((nr, ERESTARTNOHAND)) = restarted_call(&thread.registers) else {
            return Ok(());
        };
        let timeout = Timeout::of_call(thread, |at| self.memory.read_u64(at).ok());
        let rest = timeout.and_then(|t| t.remaining_now(thread));
        let (Some(rest), Some(place)) = (rest, Place::of_call(nr)) else {
            return Ok(());
        };
        let mut registers = thread.registers;
        match place {
            Place::Millis(register) => {
                *register(&mut registers) = rest.as_nanos().div_ceil(1_000_000) as u64;
            }
            Place::Pointer(register) => {
                let Some(slot) = self.lend(lent.len(), rest) else {
                    return Ok(());
                };
                *register(&mut registers) = slot;
                let tid = self.threads[index].tid;
                lent.push(Lent { tid, slot });
            }
            // The kernel keeps it up to date by itself.
            Place::Kept => return Ok(()),
        }
        self.threads[index].set_registers_to_leave_with(&registers)
    }

    /// Puts a time into a slot; `None` where there is no room.
    fn lend(&mut self, index: usize, rest: Duration) -> Option<u64> {
        let slot = self.stub_place().ok()?.slot(index)?;
        let mut timespec = rest.as_secs().to_le_bytes().to_vec();
        timespec.extend(u64::from(rest.subsec_nanos()).to_le_bytes());
        self.memory.force_write(slot, &timespec).ok()?;
        Some(slot)
    }

    /// Zeroes the slots once every thread has fetched its time-out. One that is
    /// not fetched in time stays as it is: it is without effect on anything
    /// else.
    fn take_back(&self, lent: &[Lent]) {
        let deadline = Instant::now() + FETCH;
        for lent in lent {
            while !has_fetched(lent) {
                if Instant::now() >= deadline {
                    return;
                }
                std::thread::sleep(Duration::from_micros(50));
            }
            let _ = self.memory.force_write(lent.slot, &[0; 16]);
        }
    }
}

/// Whether a thread sleeps with the time-out it was lent, or has gone on.
fn has_fetched(lent: &Lent) -> bool {
    let Ok(syscall) = proc_text::read(lent.tid, "syscall") else {
        return true;
    };
    let words: Vec<_> = proc_text::words(&syscall).collect();
    let sleeps_with_it = words
        .iter()
        .skip(1)
        .any(|w| proc_text::hex(w) == Some(lent.slot));
    let in_a_call = words.len() > 3;
    // A thread that runs may be just before the call.
    in_a_call && (sleeps_with_it || !words[0].starts_with(b"-"))
}

/// Registers of a call, by argument.
pub(super) type Register = fn(&mut Registers) -> &mut u64;
