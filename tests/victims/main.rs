//! Victims: programs that are put to sleep and woken up, one file per
//! resource. This program is both: without `ICECORE_VICTIM` the test runner,
//! with it the victim of that name.
#![allow(clippy::print_stdout, clippy::print_stderr)] // results, and logs of victims

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code)] // its vocabulary is larger than what is said today
mod harness;

mod idle;
mod injection;
mod memory;
mod signals;
mod sleeping;
mod sys;
mod timers;

use std::process::ExitCode;

use harness::Victim;

/// All victims, by resource.
fn all() -> Vec<Victim> {
    [
        idle::victims(),
        injection::victims(),
        memory::victims(),
        signals::victims(),
        sleeping::victims(),
        timers::victims(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn main() -> ExitCode {
    match std::env::var("ICECORE_VICTIM") {
        Ok(name) => harness::stage::play(&all(), &name),
        Err(_) => harness::run(all()),
    }
}
