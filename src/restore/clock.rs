//! Clocks that go on from the dump: a time namespace whose offsets make
//! CLOCK_MONOTONIC and CLOCK_BOOTTIME continue where the image left them.
//!
//! Only the calling thread's future children enter the namespace; the caller's
//! own clocks, and those of every other thread, stay what they are.

use std::fs;
use std::path::PathBuf;

use icecore_images::timers::ClockState;
use rustix::thread::CapabilitySet;
use rustix::time::{ClockId, clock_gettime};

use super::RestoreContext;
use crate::blocker::Place;
use crate::error::RestoreError;

const NANOS: i64 = 1_000_000_000;
const HOST_CLOCKS: &str = "use `--clock host`: the task then sees this machine's clocks";

/// Notes what keeps this machine from carrying the clocks on.
pub(crate) fn plan(ctx: &mut RestoreContext<'_>) {
    if !ctx.options.clock_from_dump {
        return;
    }
    if !fs::exists("/proc/self/ns/time").unwrap_or(false) {
        let problem = "the kernel has no time namespaces (CONFIG_TIME_NS), so clocks cannot go \
                       on from the dump";
        ctx.obstacle(Place::Machine, problem.to_owned(), Some(HOST_CLOCKS));
        return;
    }
    for (capability, name) in [
        (CapabilitySet::SYS_TIME, "CAP_SYS_TIME"),
        (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    ] {
        if !ctx.has_capability(capability) {
            let problem = format!(
                "{name} is missing: a time namespace, in which clocks go on from the dump, \
                 needs it"
            );
            ctx.obstacle(Place::Machine, problem, Some(HOST_CLOCKS));
        }
    }
}

/// Gives children of the calling thread a time namespace in which the clocks
/// go on from `clocks`.
pub(crate) fn enter(clocks: &ClockState) -> Result<(), RestoreError> {
    let step = |what: &'static str| {
        move |source| RestoreError::Namespace {
            what: what.to_owned(),
            source,
        }
    };
    nix::sched::unshare(nix::sched::CloneFlags::from_bits_retain(
        libc::CLONE_NEWTIME,
    ))
    .map_err(|e| step("create a time namespace")(e.into()))?;
    let path = offsets_path();
    let inherited = fs::read_to_string(&path).map_err(step("read the clock offsets"))?;
    let lines = [
        ("monotonic", ClockId::Monotonic, clocks.monotonic_ns),
        ("boottime", ClockId::Boottime, clocks.boottime_ns),
    ]
    .map(|(name, clock, wanted)| {
        let offset = offset_of(&inherited, name) + wanted - now_ns(clock);
        let (seconds, nanos) = (offset.div_euclid(NANOS), offset.rem_euclid(NANOS));
        format!("{name} {seconds} {nanos}\n")
    });
    fs::write(&path, lines.concat()).map_err(step("set the clock offsets"))
}

/// The file of this very thread: the process's own shows another thread.
fn offsets_path() -> PathBuf {
    let tid = rustix::thread::gettid().as_raw_nonzero();
    PathBuf::from(format!("/proc/{tid}/timens_offsets"))
}

/// Offset of a clock, nanoseconds, in the text of a `timens_offsets` file:
/// what icecore itself, in a time namespace, is away from the machine's clock.
fn offset_of(text: &str, clock: &str) -> i64 {
    text.lines()
        .map(str::split_whitespace)
        .find_map(|mut words| (words.next() == Some(clock)).then_some(words))
        .and_then(|mut words| {
            let seconds: i64 = words.next()?.parse().ok()?;
            let nanos: i64 = words.next()?.parse().ok()?;
            seconds.checked_mul(NANOS)?.checked_add(nanos)
        })
        .unwrap_or(0)
}

fn now_ns(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec * NANOS + now.tv_nsec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_with_their_sign() {
        let text = "monotonic           -2         500000000\nboottime            3         1\n";
        assert_eq!(offset_of(text, "monotonic"), -1_500_000_000);
        assert_eq!(offset_of(text, "boottime"), 3_000_000_001);
        assert_eq!(offset_of(text, "realtime"), 0);
    }
}
