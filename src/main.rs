//! The command line of icecore: parse, run, print one error.

use std::io::Write;
use std::process::ExitCode;

use icecore::cli;

fn main() -> ExitCode {
    // Without a backtrace: making one allocates, and where memory has run out
    // the standard library then waits for itself, with a target frozen.
    std::panic::set_hook(Box::new(|panic| {
        let _ = writeln!(std::io::stderr(), "icecore: internal error: {panic}");
    }));
    match cli::parse(std::env::args_os()) {
        Ok(command_line) => command_line.run(),
        Err(stopped) => stopped.print(),
    }
}
