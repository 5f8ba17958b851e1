//! How fast memory is dumped and restored, measured side by side with what the
//! machine itself can do and with other checkpointers that are on PATH.
//!
//! ```text
//! cargo bench --bench throughput -- [--full] [--rounds N] [--size MIB]... [--dir DIR]... [--out DIR]
//! ```
//!
//! Everything of one case is measured alternately, round after round, so that
//! what else the machine does hits all alike: only ratios within a case mean
//! anything. The contents of the target's memory are verified after every
//! restore. The report goes to `--out` (`target/throughput`): `report.html` with
//! its plots, `samples.json` with every sample, `samples.csv`, `table.md`.
#![allow(clippy::print_stdout, clippy::print_stderr)] // it is a program

mod case;
mod limits;
mod machine;
mod options;
mod plot;
mod report;
mod samples;
mod target;
mod tools;

use std::process::ExitCode;

use samples::Samples;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let result = match std::env::var(target::VARIABLE) {
        Ok(case) => target::play(&case),
        Err(_) => run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("throughput: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let options = options::Options::from_args()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let mut samples = Samples::default();
    for dir in &options.dirs {
        for case in case::sweep(&options) {
            println!("{case} in {}", dir.display());
            if let Some(why) = machine::too_big(&case, dir)? {
                println!("  left out: {why}");
                continue;
            }
            case::measure(&case, dir, options.rounds, &mut samples)?;
        }
    }
    report::write(&options, &samples)?;
    println!("{}", options.out.join("report.html").display());
    Ok(())
}
