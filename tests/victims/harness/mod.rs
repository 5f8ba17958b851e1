//! Runs victims through sleeps and wakes.
//!
//! A victim sets itself up, then checks itself each time [`Stage::next`]
//! returns true:
//!
//! ```ignore
//! pub(crate) fn victims() -> Vec<Victim> {
//!     vec![Victim::new("counter", counter).allow("fd/9/ticks")]
//! }
//!
//! fn counter(stage: &mut Stage) -> Result<(), String> {
//!     let state = set_up()?;
//!     while stage.next()? {
//!         state.check()?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Each victim becomes several tests, one for each [`Mode`].

pub(crate) mod modes;
pub(crate) mod stage;
pub(crate) mod theatre;
pub(crate) mod victim;

#[allow(unused_imports)] // for victims that do not run in all modes
pub(crate) use modes::Mode;
pub(crate) use stage::Stage;
pub(crate) use victim::Victim;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// Runs the victims as tests, as the command line asks. With `ICECORE_SKIPS`
/// it only tells which of them cannot run on this machine, and why.
pub(crate) fn run(victims: Vec<Victim>) -> ExitCode {
    if std::env::var_os("ICECORE_SKIPS").is_some() {
        for (name, reason) in victims.iter().filter_map(|v| Some((v.name, v.lacking()?))) {
            println!("{name}: {reason}");
        }
        return ExitCode::SUCCESS;
    }
    let trials = victims.into_iter().flat_map(trials).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A test for each mode; those that cannot run here are counted as ignored.
fn trials(victim: Victim) -> impl Iterator<Item = Trial> {
    let lacking = victim.lacking().is_some();
    victim.modes.clone().into_iter().map(move |mode| {
        let victim = victim.clone();
        let name = format!("{}::{}", victim.name, mode.name());
        let run = move || mode.run(&victim).map_err(Failed::from);
        Trial::test(name, run).with_ignored_flag(lacking)
    })
}
