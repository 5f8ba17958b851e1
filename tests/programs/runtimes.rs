//! Interpreters and virtual machines at work.

use std::path::Path;
use std::process::Command;

use crate::harness::Victim;
use crate::make::{compile, in_session, source};

pub(crate) fn programs() -> Vec<Victim> {
    vec![
        Victim::program("python", python)
            // The interval timer's signal comes at any moment.
            .allow("status/ShdPnd")
            .allow("thread/*/status/ShdPnd"),
        Victim::program("asyncio", asyncio),
        // Collectors and compilers of these two make and unmake memory at any
        // moment; that it comes back to the byte is shown by others.
        Victim::program("node", node).allow("map/*"),
        Victim::program("java", java).allow("map/*"),
        Victim::program("go", go),
    ]
}

fn python(_: &Path) -> Result<Command, String> {
    // Debian's: what is called python3 in PATH may be a shell script.
    let mut command = in_session("/usr/bin/python3");
    command.arg("-B").arg(source("busy.py"));
    Ok(command)
}

fn asyncio(_: &Path) -> Result<Command, String> {
    let mut command = in_session("/usr/bin/python3");
    command.arg("-B").arg(source("event_loop.py"));
    Ok(command)
}

fn node(_: &Path) -> Result<Command, String> {
    let mut command = in_session("node");
    command.arg(source("busy.js"));
    Ok(command)
}

fn java(dir: &Path) -> Result<Command, String> {
    compile(
        Command::new("javac")
            .arg("-d")
            .arg(dir)
            .arg(source("Busy.java")),
    )?;
    let mut command = in_session("java");
    command
        .args(["-XX:+UseG1GC", "-Xmx256m", "-cp"])
        .arg(dir)
        .arg("Busy");
    Ok(command)
}

fn go(dir: &Path) -> Result<Command, String> {
    let program = dir.join("busy");
    compile(
        Command::new("go")
            .arg("build")
            .arg("-o")
            .arg(&program)
            .arg(source("busy.go")),
    )?;
    Ok(in_session(program))
}
