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

fn clocks(clocks: &ClockState) -> Found {
    within("CLOCK_MONOTONIC", clocks.monotonic_ns, 0..=i64::MAX)?;
    within("CLOCK_BOOTTIME", clocks.boottime_ns, 0..=i64::MAX)
}
