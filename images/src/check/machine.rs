//! The machine and the clocks.

use super::numbers::{count, text, within};
use super::problem::{At, CheckError, Found, Object};
use crate::checkpoint::Checkpoint;
use crate::machine::MachineState;
use crate::timers::ClockState;

pub(super) fn check(image: &Checkpoint) -> Result<(), CheckError> {
    machine(&image.machine).at(Object::Machine)?;
    clocks(&image.clocks).at(Object::Clocks)
}

fn machine(machine: &MachineState) -> Found {
    text("kernel release", &machine.kernel, 256)?;
    text("host name", &machine.host, 256)?;
    text("boot id", &machine.boot_id, 256)?;
    text("CPU name", &machine.cpu, 256)?;
    count("bytes of icecore version", machine.icecore.len(), 0..=256)?;
    count("CPU feature words", machine.cpu_features.len(), 0..=1024)?;
    count("command words", machine.command.len(), 0..=1 << 16)
}

/// The kernel lets no clock of a time namespace run past KTIME_MAX / 2; dates
/// are those that fit its 64-bit nanoseconds twice.
fn clocks(clocks: &ClockState) -> Found {
    const LAST: i64 = i64::MAX / 2;
    within("CLOCK_REALTIME", clocks.realtime_ns, -LAST..=LAST)?;
    within("CLOCK_MONOTONIC", clocks.monotonic_ns, 0..=LAST)?;
    within("CLOCK_BOOTTIME", clocks.boottime_ns, 0..=LAST)
}
