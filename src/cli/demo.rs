//! `icecore demo`: all of it on a live process, told as it happens.

mod worker;

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::common::Common;
use super::{CliError, report};
use crate::builder::{Dump, Restore};
pub(crate) use worker::WorkerArgs;
use worker::{Row, Scratch, Worker};

/// Show it: put a live process to sleep and wake it up
///
/// Starts a small program of its own, dumps it, shows that it is gone, restores
/// it and shows that it goes on where it was. Nothing is left behind.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {}

/// What the demo has seen, for programs.
#[derive(Debug, Serialize)]
struct Seen {
    program: String,
    pid: u32,
    rows_before: usize,
    rows_after: usize,
    frozen_us: u64,
    dump_us: u64,
    restore_us: u64,
    bytes: u64,
}

impl DemoArgs {
    /// Shows it.
    pub(crate) fn run(&self, common: &Common) -> Result<ExitCode, CliError> {
        let scratch = Scratch::new()?;
        common.start_logging(&scratch.dir)?;
        let tell = |text: &str| {
            if !common.json {
                report::line(text);
            }
        };
        let seen = show(&scratch, &tell)?;
        if common.json {
            report::success(&seen);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn show(scratch: &Scratch, tell: &dyn Fn(&str)) -> Result<Seen, CliError> {
    let file = scratch.dir.join("fibonacci.txt");
    let image = scratch.dir.join("image");

    tell("1. A process at work");
    let mut worker = Worker::start(&file)?;
    let before = worker.rows_beyond(&[], 5)?;
    let (pid, program) = (worker.pid(), worker.program.clone());
    tell(&format!(
        "   pid {pid}, {program}, computes Fibonacci numbers into an open file"
    ));
    tell_last(&before, tell);

    tell("\n2. It is put to sleep");
    tell(&format!(
        "   $ icecore dump -t {pid} -D {}",
        image.display()
    ));
    let dumped = Dump::new(pid, &image).run()?;
    worker.is_gone();
    let stats = &dumped.stats;
    tell(&format!(
        "   took {}, of which the process stood still for {}; the image has {}",
        time(stats.total_us),
        time(stats.frozen_us),
        indicatif::HumanBytes(stats.bytes_written),
    ));
    let asleep = worker.rows()?;
    tell(&format!("   it is gone: {}", absence(pid)?));
    tell_last(&asleep, tell);

    tell("\n3. It wakes up");
    tell(&format!("   $ icecore restore -D {} -d", image.display()));
    let restored = Restore::new(&image).run()?;
    worker.is_back();
    let took = time(restored.stats.total_us);
    tell(&format!(
        "   took {took}; it runs again as pid {}",
        worker.pid()
    ));
    let after = worker.rows_beyond(&asleep, 5)?;
    tell_last(&after, tell);
    worker::check(&after)?;
    tell("\nIt went on where it was: each number is the sum of the two before it,");
    tell(&format!(
        "from the first to the {}th, and none is missing.",
        after.len()
    ));
    Ok(Seen {
        program,
        pid,
        rows_before: asleep.len(),
        rows_after: after.len(),
        frozen_us: stats.frozen_us,
        dump_us: stats.total_us,
        restore_us: restored.stats.total_us,
        bytes: stats.bytes_written,
    })
}

fn tell_last(rows: &[Row], tell: &dyn Fn(&str)) {
    for (n, value) in &rows[rows.len().saturating_sub(2)..] {
        tell(&format!("   fibonacci({n}) = {value}"));
    }
}

/// Says that there is no such process.
fn absence(pid: u32) -> Result<String, CliError> {
    let path = format!("/proc/{pid}");
    match Path::new(&path).exists() {
        false => Ok(format!("there is no {path}")),
        true => Err(CliError::Demo {
            what: format!("pid {pid} is still there after its dump"),
        }),
    }
}

fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}
