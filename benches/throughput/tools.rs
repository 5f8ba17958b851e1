//! icecore, and others that write a process's memory into a file.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::Outcome;

/// What something took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// From start to end of the program.
    pub(crate) us: u64,
    pub(crate) frozen_us: Option<u64>,
}

/// Dumps a process.
pub(crate) fn dump(pid: u32, image: &Path, options: &[&str]) -> Outcome<Cost> {
    let mut command = icecore("dump", image);
    command.args(["-t", &pid.to_string()]).args(options);
    run(command)
}

/// Wakes it up again.
pub(crate) fn restore(image: &Path) -> Outcome<Cost> {
    let mut command = icecore("restore", image);
    command.arg("-d");
    run(command)
}

fn icecore(what: &str, image: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
    command
        .args([what, "--json", "--no-default-config", "-D"])
        .arg(image);
    command
}

fn run(mut command: Command) -> Outcome<Cost> {
    let since = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    let us = since.elapsed().as_micros() as u64;
    let said: Value = serde_json::from_slice(&output.stdout)?;
    if !output.status.success() {
        return Err(format!("{command:?}: {said}").into());
    }
    // A dump that could not be done as asked says so; it is no sample then.
    let notes = said["notes"].as_array().map_or(&[][..], Vec::as_slice);
    if let Some(note) = notes.iter().find(|n| n.to_string().contains("in spite of")) {
        return Err(format!("{command:?}: {note}").into());
    }
    Ok(Cost {
        us,
        frozen_us: said["stats"]["frozen_us"].as_u64(),
    })
}

/// Another checkpointer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
}

/// Those on PATH.
pub(crate) fn others() -> Vec<Tool> {
    let is_there = |tool: &Tool| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(tool.name).exists())
    };
    let known = [Tool { name: "gcore" }, Tool { name: "criu" }];
    known.into_iter().filter(is_there).collect()
}

impl Tool {
    /// Has it write a process's memory; the process goes on. `None` where it
    /// does not work here.
    pub(crate) fn dump(&self, pid: u32, dir: &Path) -> Outcome<Option<u64>> {
        std::fs::create_dir(dir)?;
        let mut command = Command::new(self.name);
        let pid = pid.to_string();
        match self.name {
            "gcore" => command.arg("-o").arg(dir.join("core")).arg(pid),
            _ => command
                .args(["dump", "-R", "-j", "-t", &pid, "-D"])
                .arg(dir),
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let since = Instant::now();
        let status = command.status()?;
        let us = since.elapsed().as_micros() as u64;
        std::fs::remove_dir_all(dir)?;
        Ok(status.success().then_some(us))
    }
}
