//! The rest of waits that a freeze has cut short.
//!
//! A call that the kernel issues again is given the time that remains. Where it
//! takes its time-out through a pointer, that time lies in the tail of the
//! vDSO, behind the stub, where the next freeze finds it: it stays there until
//! a freeze sees that no thread's call points at it any more. (The register
//! that held the time-out keeps what it was given, as registers that hold
//! arguments may after any call of the C library.)

use std::time::Duration;

use icecore_images::thread::Registers;

use super::freeze::{FrozenTask, FrozenThread};
use super::interrupted::{ERESTARTNOHAND, restarted_call};
use super::stub::StubPlace;
use super::timeout::{Kept, Place, Timeout};

impl FrozenTask {
    /// Makes every thread ready to go on: the stub is taken away, and each
    /// call that is issued again gets what remains of its wait now.
    pub(super) fn prepare_to_leave(&mut self) -> Result<(), super::ptrace::TraceError> {
        self.wipe_stub();
        for index in 0..self.threads.len() {
            self.give_rest(index)?;
        }
        Ok(())
    }

    /// Lets all threads go.
    pub(super) fn detach(&mut self) -> Result<(), super::ptrace::TraceError> {
        for thread in std::mem::take(&mut self.threads) {
            match thread.detach() {
                // It was killed while it was frozen.
                Err(e) if e.is_gone() => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Addresses that calls of its threads may have their time-outs at.
    pub(super) fn addresses_in_use(&self) -> impl Iterator<Item = u64> + use<'_> {
        self.threads.iter().flat_map(FrozenThread::pointers)
    }

    fn give_rest(&mut self, index: usize) -> Result<(), super::ptrace::TraceError> {
        let thread = &self.threads[index];
        let Some((nr, ERESTARTNOHAND)) = restarted_call(&thread.registers) else {
            return Ok(());
        };
        if !thread.had_ended
            && let Some(kept) = Kept::of_call(nr)
        {
            self.shorten(thread, &kept);
            return Ok(());
        }
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
                let Some(slot) = self.lend(index, rest) else {
                    return Ok(());
                };
                *register(&mut registers) = slot;
                self.threads[index].registers = registers;
            }
            // The kernel keeps it up to date by itself.
            Place::Kernel => return Ok(()),
        }
        self.threads[index].set_registers_to_leave_with(&registers)
    }

    /// Takes the time that has passed in the freeze off what the kernel has left
    /// in the program's memory. Where that cannot be done, the wait is longer.
    fn shorten(&self, thread: &FrozenThread, kept: &Kept) {
        let at = (kept.at)(&thread.registers);
        let mut bytes = [0; 16];
        if at == 0 || self.memory.read(at, &mut bytes).is_err() {
            return;
        }
        if let Some(bytes) = kept.after(bytes, thread.frozen_at.elapsed()) {
            let _ = self.memory.force_write(at, &bytes);
        }
    }

    /// Puts a time into the slot the thread's call points at already, or into
    /// one that no call points at; `None` where there is no room (the wait is
    /// made anew).
    fn lend(&mut self, index: usize, rest: Duration) -> Option<u64> {
        let place = self.stub_place().ok()?;
        self.room_for(0).ok()?;
        let slots = || (0..).map_while(|i| place.slot(i));
        let held = |slot: &u64| self.threads[index].may_point_at(*slot);
        let slot = match slots().find(held) {
            Some(slot) => slot,
            None => slots().find(|&slot| !self.is_lent(slot))?,
        };
        let mut timespec = rest.as_secs().to_le_bytes().to_vec();
        timespec.extend(u64::from(rest.subsec_nanos()).to_le_bytes());
        self.memory.force_write(slot, &timespec).ok()?;
        Some(slot)
    }

    fn is_lent(&self, slot: u64) -> bool {
        self.reserved.contains(&slot) || self.threads.iter().any(|t| t.may_point_at(slot))
    }

    /// Zeroes the slots that no thread's call points at any more.
    pub(super) fn wipe_slots(&self, place: StubPlace) {
        for slot in (0..).map_while(|i| place.slot(i)) {
            let mut bytes = [0; 16];
            let read = self.memory.read(slot, &mut bytes);
            if read.is_ok() && bytes != [0; 16] && !self.is_lent(slot) {
                // What stays is without effect.
                let _ = self.memory.force_write(slot, &[0; 16]);
            }
        }
    }
}

impl FrozenThread {
    /// Whether an argument that can be a time-out is this address: of the call
    /// the thread is in, or of one that it is about to make again.
    fn may_point_at(&self, slot: u64) -> bool {
        self.pointers().contains(&slot)
    }

    fn pointers(&self) -> [u64; 3] {
        let r = &self.registers;
        [r.rdx, r.r10, r.r8]
    }
}

/// Registers of a call, by argument.
pub(super) type Register = fn(&mut Registers) -> &mut u64;
