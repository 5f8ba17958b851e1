//! Programs that are more than one process.

use std::path::Path;
use std::process::Command;

use crate::harness::{Mode, Victim};
use crate::make::{in_session, source};

pub(crate) fn programs() -> Vec<Victim> {
    vec![
        shell("bash-pipeline", pipeline),
        shell("bash-jobs", jobs),
        tree("tree-multiprocessing", pool),
        tree("tree-gunicorn", gunicorn),
        tree("tree-gunicorn-preload", gunicorn_preload),
        tree("tree-nginx", nginx),
        tree("tree-make", make),
        // Its helpers make room for themselves and open the log when they first
        // wake up.
        tree("tree-postgresql", postgresql)
            .allow("*map/*")
            .allow("share/*/fd/4")
            .allow("task/*/fd/4/*"),
    ]
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

fn python(name: &str) -> Command {
    // Debian's: what is called python3 in PATH may be a shell script.
    let mut command = in_session("/usr/bin/python3");
    command.arg("-B").arg(source(name));
    command
}

fn pool(_: &Path) -> Result<Command, String> {
    Ok(python("pool.py"))
}

fn gunicorn(_: &Path) -> Result<Command, String> {
    Ok(python("prefork.py"))
}

fn gunicorn_preload(_: &Path) -> Result<Command, String> {
    let mut command = python("prefork.py");
    command.arg("--preload");
    Ok(command)
}

fn nginx(_: &Path) -> Result<Command, String> {
    Ok(python("webserver.py"))
}

fn make(_: &Path) -> Result<Command, String> {
    Ok(python("build.py"))
}

fn postgresql(_: &Path) -> Result<Command, String> {
    Ok(python("database.py"))
}
