//! Real programs, put to sleep and woken up: interpreters, virtual machines,
//! runtimes. Each checks itself and is compared from outside; see
//! `tests/victims/harness`.
#![allow(clippy::print_stdout, clippy::print_stderr)] // results, and logs of victims

#[path = "../common/mod.rs"]
mod common;
#[path = "../victims/harness/mod.rs"]
#[allow(dead_code)] // its vocabulary is larger than what is said here
mod harness;

mod c;
mod make;
mod runtimes;
mod rust_async;
mod trees;

use std::process::ExitCode;

use harness::Victim;

/// All programs.
fn all() -> Vec<Victim> {
    let parts = [
        c::programs(),
        runtimes::programs(),
        rust_async::programs(),
        trees::programs(),
    ];
    parts.into_iter().flatten().collect()
}

fn main() -> ExitCode {
    match std::env::var("ICECORE_VICTIM") {
        Ok(name) => harness::stage::play(&all(), &name),
        Err(_) => harness::run(all()),
    }
}
