//! Signals to icecore itself: the first asks a running operation to stop and
//! leave everything as it was; a second one ends icecore at once, which does no
//! harm either. While a restored process runs in the foreground they are
//! passed on to it.

use std::io;
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, iterator::Signals, low_level};

use super::CliError;
use crate::kernel::proc_text;
use crate::observer::Cancel;

const CAUGHT: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Those of them that are not ignored: what nohup or a shell's `&` has made so
/// stays so.
fn not_ignored() -> impl Iterator<Item = i32> {
    let status = proc_text::read(std::process::id(), "status").unwrap_or_default();
    let ignored = proc_text::field(&status, "SigIgn").and_then(proc_text::hex);
    let ignored = ignored.unwrap_or(0);
    let is_ignored = move |signal: &i32| ignored & (1 << (signal - 1)) != 0;
    CAUGHT.into_iter().filter(move |signal| !is_ignored(signal))
}

/// Signals that lead to a [`Cancel`], as long as it lives.
#[derive(Debug)]
pub(crate) struct Caught(Vec<SigId>);

impl Drop for Caught {
    fn drop(&mut self) {
        for id in self.0.drain(..) {
            low_level::unregister(id);
        }
    }
}

/// Lets signals cancel an operation.
pub(crate) fn cancel_on_signal(cancel: &Cancel) -> Result<Caught, CliError> {
    let mut caught = Caught(Vec::new());
    for signal in not_ignored() {
        // In this order: the second signal finds the flag set and ends us.
        for register in [flag::register_conditional_default, flag::register] {
            let id = register(signal, cancel.flag());
            caught
                .0
                .push(id.map_err(|source| CliError::Signals { source })?);
        }
    }
    // Caught, it leaves a write past RLIMIT_FSIZE an error that can be reported.
    let id = flag::register(SIGXFSZ, Arc::default());
    caught
        .0
        .push(id.map_err(|source| CliError::Signals { source })?);
    Ok(caught)
}

/// Passes signals on to `pid` from now on.
pub(crate) fn forward_to(pid: Pid) -> Result<(), CliError> {
    let signals = Signals::new(not_ignored()).map_err(|source| CliError::Signals { source })?;
    let forward = move || forward(signals, pid);
    let thread = std::thread::Builder::new().name("signals".to_owned());
    let started = thread.spawn(forward);
    started
        .map(drop)
        .map_err(|source: io::Error| CliError::Signals { source })
}

fn forward(mut signals: Signals, pid: Pid) {
    for number in signals.forever() {
        if let Some(signal) = Signal::from_named_raw(number) {
            // If it has just ended there is nothing to pass on to.
            let _ = kill_process(pid, signal);
        }
    }
}
