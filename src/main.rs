//! The command line of icecore: parse, run, print one error.

use std::process::ExitCode;

use icecore::cli;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(command_line) => command_line.run(),
        Err(stopped) => stopped.print(),
    }
}
