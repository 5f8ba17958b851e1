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

/// Runs the victims as tests, as the command line asks.
pub(crate) fn run(victims: Vec<Victim>) -> ExitCode {
    let trials = victims.into_iter().flat_map(trials).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trials(victim: Victim) -> impl Iterator<Item = Trial> {
    victim.modes.clone().into_iter().map(move |mode| {
        let victim = victim.clone();
        let name = format!("{}::{}", victim.name, mode.name());
        Trial::test(name, move || match victim.lacking() {
            // Counted as a failure on purpose where it is not expected: what
            // is missing is to be installed, not passed over.
            Some(reason) => Err(Failed::from(format!("cannot run here: {reason}"))),
            None => mode.run(&victim).map_err(Failed::from),
        })
    })
}
