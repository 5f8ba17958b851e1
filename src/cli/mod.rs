//! The command line: one file per subcommand, each an args struct that turns
//! into library options.

mod actions;
mod args;
mod cgroup;
mod check;
mod common;
mod config;
mod demo;
mod dump;
mod duration;
mod error;
mod image_dir;
mod inspect;
mod keeper;
mod later;
mod log;
mod outside;
mod present;
mod progress;
mod report;
mod restore;
mod signals;
mod size;
mod verify;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use args::{Stopped, parse};
use common::Common;
pub use error::CliError;

/// Puts a running Linux process to sleep on disk and wakes it up again.
///
/// The process comes back with the same memory, registers, threads, timers and
/// open files, on this machine or another. Whatever goes wrong while it is
/// dumped, it goes on as if nothing had happened; a restore that fails leaves
/// nothing behind.
#[derive(Debug, Parser)]
#[command(
    name = "icecore",
    version,
    args_override_self = true,
    infer_long_args = false,
    max_term_width = 100,
    after_help = "Exit status: 0 is success and nothing else is (a restore in the foreground \
        ends with the status of the restored process).\n\
        `icecore demo` shows all of it on a live process."
)]
pub struct CommandLine {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dump(dump::DumpArgs),
    Restore(restore::RestoreArgs),
    Check(check::CheckArgs),
    Inspect(inspect::InspectArgs),
    Verify(verify::VerifyArgs),
    Keeper(keeper::KeeperArgs),
    Demo(demo::DemoArgs),
    /// The program `demo` puts to sleep where there is no Python
    #[command(hide = true)]
    DemoWorker(demo::WorkerArgs),
    /// Not supported yet
    #[command(hide = true)]
    PreDump(later::Anything),
    /// Not supported yet
    #[command(hide = true)]
    Merge(later::Anything),
}

impl CommandLine {
    /// Does what it says. Prints the error, if there is one.
    pub fn run(&self) -> ExitCode {
        let done = match &self.command {
            Command::Dump(args) => args.run(&self.common),
            Command::Restore(args) => args.run(&self.common),
            Command::Check(args) => args.run(&self.common),
            Command::Inspect(args) => args.run(&self.common),
            Command::Verify(args) => args.run(&self.common),
            Command::Keeper(args) => args.run(&self.common),
            Command::Demo(args) => args.run(&self.common),
            Command::DemoWorker(args) => args.run(),
            Command::PreDump(_) => Err(later::not_yet("pre-dump", "incremental images")),
            Command::Merge(_) => Err(later::not_yet("merge", "incremental images")),
        };
        done.unwrap_or_else(|error| {
            report::failure(&error, self.common.json);
            ExitCode::FAILURE
        })
    }
}

/// The words of a command line.
type Words = Vec<OsString>;
