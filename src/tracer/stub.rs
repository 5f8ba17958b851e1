//! Where the stub lies in a target: the unused tail of its vDSO, or of a program
//! or library.

use std::time::{Duration, Instant};

use icecore_parasite::{STUB_MAGIC, StubConstants, stub, stub_layout};

use super::freeze::{FreezeError, FrozenTask};
use super::inject::InjectError;
use super::ptrace::{Resume, Stop, TraceError};
use super::tails::{self, Tail};
use crate::kernel::maps::{self, Area};
use crate::kernel::vdso::Vdso;

/// The first of some tails that will do, and whether a stub of ours lies there
/// already; otherwise why the last one will not.
fn take(tails: &[Tail]) -> Result<(StubPlace, bool), NoPlace> {
    let needed = stub_layout().len as usize;
    let place = |tail: &Tail| StubPlace {
        address: tail.address,
        room: tail.bytes.len() as u64,
    };
    if let Some(tail) = tails.iter().find(|t| t.bytes.starts_with(&STUB_MAGIC)) {
        return Ok((place(tail), true));
    }
    let mut why = NoPlace::NoVdso;
    for tail in tails {
        let room = tail.bytes.len();
        match tail.bytes.get(..needed) {
            Some(bytes) if bytes.iter().all(|&b| b == 0) => return Ok((place(tail), false)),
            Some(_) => why = NoPlace::InUse,
            None => why = NoPlace::NoRoom { room, needed },
        }
    }
    Err(why)
}

/// A place for the stub.
#[derive(Debug, Clone, Copy)]
pub(super) struct StubPlace {
    /// Its first byte.
    pub(super) address: u64,
    /// Bytes that are free from there on.
    room: u64,
}

/// Bytes of a timespec.
const SLOT: u64 = 16;

impl StubPlace {
    /// Where a thread enters it.
    pub(super) fn entry(self) -> u64 {
        self.address + stub_layout().entry
    }

    /// The `index`th place behind the stub for a timespec, if there are as many.
    pub(super) fn slot(self, index: usize) -> Option<u64> {
        let offset = stub_layout().len.next_multiple_of(SLOT) + index as u64 * SLOT;
        (offset + SLOT <= self.room).then_some(self.address + offset)
    }

    /// Whether `ip` is an instruction of it.
    fn holds(self, ip: u64) -> bool {
        (self.address..self.address + stub_layout().constants).contains(&ip)
    }
}

/// Why there is no place for the stub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoPlace {
    /// There is no vDSO, or it is none we know how to read.
    #[error("it has no readable vDSO, and no program or library with room in its last page")]
    NoVdso,
    /// It has no room.
    #[error(
        "its vDSO has {room} unused bytes where {needed} are needed, and no program or library has \
         as many in its last page"
    )]
    NoRoom {
        /// Bytes.
        room: usize,
        /// Bytes.
        needed: usize,
    },
    /// Someone else uses the tail.
    #[error("the tail of its vDSO is in use by something unknown")]
    InUse,
}

impl FrozenTask {
    /// The stub's place, and whether a killed run has left its own there: the
    /// tail of the vDSO, or else that of another executable segment.
    fn find_stub_place(&self) -> Result<(StubPlace, bool), NoPlace> {
        let tid = self.threads.first().map_or(self.pid, |t| t.tid);
        let areas = maps::read_maps(tid).map_err(|_| NoPlace::NoVdso)?;
        let vdso = self.vdso_tail(&areas).and_then(|tail| take(&[tail]));
        vdso.or_else(|why| take(&tails::of_segments(&areas, &self.memory)).map_err(|_| why))
    }

    fn vdso_tail(&self, areas: &[Area]) -> Result<Tail, NoPlace> {
        let vdso = areas
            .iter()
            .find(|a| a.name == b"[vdso]")
            .ok_or(NoPlace::NoVdso)?;
        let mut bytes = self.read_area(vdso).ok_or(NoPlace::NoVdso)?;
        let elf_len = Vdso::parse(&bytes).map_err(|_| NoPlace::NoVdso)?.elf_len;
        let at = elf_len.next_multiple_of(64).min(bytes.len());
        let bytes = bytes.split_off(at);
        let address = vdso.start + at as u64;
        Ok(Tail { address, bytes })
    }

    fn read_area(&self, area: &Area) -> Option<Vec<u8>> {
        let mut bytes = vec![0; area.len() as usize];
        self.memory.read(area.start, &mut bytes).ok()?;
        Some(bytes)
    }

    /// The stub's place, looked for once.
    pub(super) fn stub_place(&mut self) -> Result<StubPlace, NoPlace> {
        match self.stub {
            Some(place) => Ok(place),
            None => {
                let (place, _) = self.find_stub_place()?;
                self.stub = Some(place);
                Ok(place)
            }
        }
    }

    /// Puts a stub with these constants into its place.
    pub(super) fn write_stub(
        &mut self,
        place: StubPlace,
        constants: &StubConstants,
    ) -> Result<(), InjectError> {
        let mut bytes = stub().to_vec();
        bytes.extend(constants.to_bytes());
        match self.memory.force_write(place.address, &bytes) {
            Ok(()) => Ok(()),
            // proc_mem.force_override forbids this way; ptrace has another.
            Err(_) => self.poke(place.address, &bytes),
        }
    }

    fn poke(&mut self, address: u64, bytes: &[u8]) -> Result<(), InjectError> {
        let pid = self.pid;
        let Some(stopped) = self.threads.iter_mut().find_map(|t| t.stopped.as_mut()) else {
            return Err(InjectError::NoThread { pid });
        };
        for (i, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            stopped.poke(address + i as u64 * 8, u64::from_le_bytes(word))?;
        }
        Ok(())
    }

    /// Zeroes the stub until it is needed again: what is read from the task's
    /// memory from here on is its own.
    pub fn put_stub_away(&mut self) {
        self.wipe_stub();
    }

    /// Zeroes the stub, unless a thread may still be inside.
    pub(super) fn wipe_stub(&mut self) {
        let Some(place) = self.stub else { return };
        if self.keep_stub || self.threads.is_empty() || self.is_astray() {
            return;
        }
        self.wipe_slots(place);
        self.stub = None;
        let zeros = vec![0; stub_layout().len as usize];
        if self.memory.force_write(place.address, &zeros).is_err() {
            // Nothing jumps there: what stays is without effect.
            let _ = self.poke(place.address, &zeros);
        }
    }

    /// Where a killed run has left its stub with threads inside, lets them walk
    /// home.
    pub(super) fn leave_old_stub(
        &mut self,
        deadline: Instant,
        limit: Duration,
    ) -> Result<(), FreezeError> {
        let Ok((place, true)) = self.find_stub_place() else {
            return Ok(());
        };
        for thread in &mut self.threads {
            while place.holds(thread.registers.rip) {
                let tid = thread.tid;
                if Instant::now() >= deadline {
                    let why = "it is inside the stub of an icecore that was killed".to_owned();
                    return Err(FreezeError::Timeout { tid, limit, why });
                }
                thread.run_for(Duration::from_millis(1))?;
            }
        }
        self.stub = Some(place);
        Ok(())
    }
}

impl super::freeze::FrozenThread {
    /// Lets the thread run for a moment and freezes it again. (One that stood
    /// in a group-stop when it was seized stops once more before it runs: the
    /// interruption of the freeze is still to come.)
    fn run_for(&mut self, moment: Duration) -> Result<(), TraceError> {
        let tid = self.tid;
        let gone = || TraceError::from(super::ptrace::Gone { tid });
        let stopped = self.stopped.take().ok_or_else(gone)?;
        let mut running = stopped.resume(Resume::Cont(0))?;
        let mut interrupted = false;
        loop {
            let deadline = Instant::now() + moment;
            let (stopped, stop) = match running.wait_until(deadline)? {
                Ok(stopped) => stopped,
                Err(still) => {
                    running = still;
                    running.interrupt()?;
                    interrupted = true;
                    continue;
                }
            };
            running = match stop {
                Stop::Event { .. } if interrupted => {
                    *self = Self::new(stopped, None)?;
                    return Ok(());
                }
                Stop::Event { .. } => stopped.resume(Resume::Cont(0))?,
                Stop::Signal(signal) => stopped.resume(Resume::Cont(signal))?,
                stop => return Err(TraceError::Unexpected { tid, stop }),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(address: u64, bytes: &[u8], len: usize) -> Tail {
        let mut bytes = bytes.to_vec();
        bytes.resize(len, 0);
        Tail { address, bytes }
    }

    fn taken(tails: &[Tail]) -> Result<(u64, bool), NoPlace> {
        take(tails).map(|(place, ours)| (place.address, ours))
    }

    #[test]
    fn a_tail_is_taken_that_is_empty_and_long_enough_or_ours_already() {
        let short = tail(0x1000, &[], 64);
        let used = tail(0x2000, &[1], 4000);
        let (free, another) = (tail(0x3000, &[], 4000), tail(0x4000, &[], 4000));
        let ours = tail(0x5000, &STUB_MAGIC, 4000);
        assert_eq!(taken(&[]), Err(NoPlace::NoVdso));
        let needed = stub_layout().len as usize;
        let room = 64;
        assert_eq!(
            taken(std::slice::from_ref(&short)),
            Err(NoPlace::NoRoom { room, needed })
        );
        assert_eq!(taken(std::slice::from_ref(&used)), Err(NoPlace::InUse));
        let mut all = vec![short, used, free, another];
        assert_eq!(taken(&all), Ok((0x3000, false)));
        all.push(ours);
        assert_eq!(taken(&all), Ok((0x5000, true)));
    }
}
