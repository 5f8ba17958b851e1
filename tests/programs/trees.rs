//! Programs that are more than one process.

use std::path::Path;
use std::process::Command;

use crate::harness::{Mode, Victim};
use crate::make::{in_session, source};

pub(crate) fn programs() -> Vec<Victim> {
    vec![shell("bash-pipeline", pipeline), shell("bash-jobs", jobs)]
}

/// A tree, dumped for good and while it goes on.
fn tree(name: &'static str, make: fn(&Path) -> Result<Command, String>) -> Victim {
    Victim::program(name, make).only(&[Mode::Cycles, Mode::Running])
}

/// A shell at work: how far its numbers have come is another thing at every
/// look, and it blocks and unblocks signals around much of what it does.
fn shell(name: &'static str, make: fn(&Path) -> Result<Command, String>) -> Victim {
    tree(name, make).allow("*fd/3/pos").allow("*status/SigBlk")
}

fn script(interpreter: &str, name: &str) -> Command {
    let mut command = in_session(interpreter);
    command.arg(source(name));
    command
}

fn pipeline(_: &Path) -> Result<Command, String> {
    Ok(script("/bin/bash", "pipeline.sh"))
}

fn jobs(_: &Path) -> Result<Command, String> {
    Ok(script("/bin/bash", "jobs.sh"))
}
