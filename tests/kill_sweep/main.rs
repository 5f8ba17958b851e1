//! The kill sweep: icecore is killed at its Nth ptrace request, for every N,
//! every step of writing and every change of the network; each time its target
//! must go on unharmed and nothing of icecore's may be left. Beside it other
//! things that may happen to a dump (`stress`). This program is also the targets: with
//! `ICECORE_SWEEP_VICTIM` it plays the victim of that name.
#![allow(clippy::print_stdout, clippy::print_stderr)] // results, and logs of victims
#![allow(clippy::type_complexity)] // tables of functions

#[path = "../common/mod.rs"]
mod common;
mod connected;
mod forking;
mod memory_limit;
mod registers;
mod stress;
mod sweep;
mod tree;
mod victim;
mod victims;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    if let Ok(name) = std::env::var("ICECORE_SWEEP_VICTIM") {
        return match victims::play(&name) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("victim {name}: {e}");
                ExitCode::FAILURE
            }
        };
    }
    let sweeps = victims::ALL.iter().map(|(name, _)| {
        Trial::test(format!("kill_sweep::{name}"), || {
            sweep::run(name, &[]).map_err(Failed::from)
        })
    });
    let live = victims::LIVE.iter().map(|name| {
        Trial::test(format!("kill_sweep::live::{name}"), || {
            sweep::run(name, &["--live"]).map_err(Failed::from)
        })
    });
    let trials = sweeps
        .chain(live)
        .chain(stress::trials())
        .chain(memory_limit::trials())
        .collect();
    let mut arguments = Arguments::from_args();
    // Victims measure time: not too many at once.
    arguments.test_threads = arguments.test_threads.or(Some(2));
    libtest_mimic::run(&arguments, trials).exit_code()
}
