//! What a victim is, and what may be said about it.

use std::path::Path;
use std::process::Command;

use super::modes::Mode;
use super::stage::Stage;
use crate::common::outside::Outside;

/// The program of a victim.
pub(crate) type Body = fn(&mut Stage) -> Result<(), String>;

/// Looks at a victim from outside.
pub(crate) type Check = fn(&Outside) -> Result<(), String>;

/// Changes the command that starts a victim.
pub(crate) type Prepare = fn(&mut Command) -> Result<(), String>;

/// What plays a victim's part.
#[derive(Clone, Copy)]
pub(crate) enum Play {
    /// A function of this very program, run again.
    Body(Body),
    /// Another program that speaks the protocol of [`Stage`]; made, in the
    /// directory given, by a function that returns its command.
    Program(fn(&Path) -> Result<Command, String>),
}

/// A program that is put to sleep, and how.
#[derive(Clone)]
pub(crate) struct Victim {
    pub(crate) name: &'static str,
    pub(crate) play: Play,
    pub(crate) modes: Vec<Mode>,
    pub(crate) dump_args: Vec<&'static str>,
    pub(crate) restore_args: Vec<&'static str>,
    pub(crate) allowed: Vec<String>,
    pub(crate) check: Option<Check>,
    pub(crate) prepare: Option<Prepare>,
    needs: Option<fn() -> Result<(), String>>,
}

impl Victim {
    /// A victim that runs in every mode: [`Mode::Cycles`], [`Mode::Running`]
    /// and [`Mode::Failed`].
    pub(crate) fn new(name: &'static str, body: Body) -> Self {
        Self::playing(name, Play::Body(body))
    }

    /// Another program as a victim, in every mode. `make` makes it in the
    /// directory given (which is its own) and returns the command.
    pub(crate) fn program(name: &'static str, make: fn(&Path) -> Result<Command, String>) -> Self {
        Self::playing(name, Play::Program(make))
    }

    fn playing(name: &'static str, play: Play) -> Self {
        Self {
            name,
            play,
            modes: vec![Mode::Cycles, Mode::Running, Mode::Failed],
            dump_args: Vec::new(),
            restore_args: Vec::new(),
            allowed: Vec::new(),
            check: None,
            prepare: None,
            needs: None,
        }
    }

    /// A victim whose dump is refused with `text` on stderr, and that comes to
    /// no harm by it.
    pub(crate) fn refused(name: &'static str, text: &'static str, body: Body) -> Self {
        Self {
            modes: vec![Mode::Refused(text)],
            ..Self::new(name, body)
        }
    }

    /// Runs only in these modes.
    pub(crate) fn only(mut self, modes: &[Mode]) -> Self {
        self.modes = modes.to_vec();
        self
    }

    /// More options for `icecore dump`.
    pub(crate) fn dump_args(mut self, args: &[&'static str]) -> Self {
        self.dump_args.extend(args);
        self
    }

    /// More options for `icecore restore`.
    pub(crate) fn restore_args(mut self, args: &[&'static str]) -> Self {
        self.restore_args.extend(args);
        self
    }

    /// Lets facts seen from outside differ whose names match `pattern` (see
    /// [`Outside`]): `fd/5/*`, `thread/*/status/SigPnd`.
    pub(crate) fn allow(mut self, pattern: &str) -> Self {
        self.allowed.push(pattern.to_owned());
        self
    }

    /// Checks more from outside, before the first dump and after every one:
    /// that the snapshot shows what the victim set up at all.
    pub(crate) fn check(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }

    /// Changes the command that starts the victim: environment, descriptors,
    /// a wrapping program.
    pub(crate) fn prepare(mut self, prepare: Prepare) -> Self {
        self.prepare = Some(prepare);
        self
    }

    /// What hardware or kernel the machine must have; an error names what is
    /// missing. Programs do not belong here: `./test` installs them.
    pub(crate) fn needs(mut self, needs: fn() -> Result<(), String>) -> Self {
        self.needs = Some(needs);
        self
    }

    /// What the machine lacks, if anything.
    pub(crate) fn lacking(&self) -> Option<String> {
        self.needs.and_then(|needs| needs().err())
    }
}
