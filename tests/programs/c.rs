//! Programs in C: ways of linking, many areas, wide registers, seccomp,
//! another user.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::Victim;
use crate::make::{compile, in_session, source};

pub(crate) fn programs() -> Vec<Victim> {
    vec![
        Victim::program("static", |dir| made(dir, "plain.c", &["-static"])),
        Victim::program("non_pie", |dir| {
            made(dir, "plain.c", &["-no-pie", "-fno-pie"])
        }),
        Victim::program("areas", |dir| made(dir, "areas.c", &[])),
        Victim::program("avx512", |dir| {
            made(dir, "avx512.c", &["-mavx512f", "-mavx512bw"])
        })
        .needs(|| cpu_has("avx512bw")),
        Victim::program("seccomp", |dir| made(dir, "seccomp.c", &[])),
        Victim::program("other_user", other_user),
    ]
}

fn made(dir: &Path, name: &str, options: &[&str]) -> Result<Command, String> {
    Ok(in_session(program(dir, name, options)?))
}

fn program(dir: &Path, name: &str, options: &[&str]) -> Result<PathBuf, String> {
    let program = dir.join("program");
    let mut gcc = Command::new("gcc");
    gcc.args(["-O1", "-Wall", "-Werror", "-pthread"])
        .args(options);
    compile(gcc.arg(source(name)).arg("-o").arg(&program))?;
    Ok(program)
}

/// Neither root nor any capability, and a group of its own.
fn other_user(dir: &Path) -> Result<Command, String> {
    let program = program(dir, "plain.c", &[])?;
    let mut command = in_session("setpriv");
    command.args([
        "--reuid=1234",
        "--regid=2345",
        "--groups=7,8",
        "--inh-caps=-all",
    ]);
    command.arg(program);
    Ok(command)
}

fn cpu_has(flag: &str) -> Result<(), String> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").map_err(|e| e.to_string())?;
    match cpus.split_whitespace().any(|word| word == flag) {
        true => Ok(()),
        false => Err(format!("this CPU has no {flag}")),
    }
}
