//! What is done with a victim.

use super::theatre::Theatre;
use super::victim::Victim;
use crate::common::icecore::Icecore;

/// How often each victim sleeps and wakes, or is dumped while it goes on.
const ROUNDS: u32 = 3;

/// A way of treating a victim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Dump, gone, restore, compare, check; several times in a row.
    Cycles,
    /// Dump with `-R` several times: no harm.
    Running,
    /// Dump with `--live` several times: no harm; the last one, after which the
    /// victim is killed, is restored.
    Live,
    /// A dump that fails in the middle of writing: no harm, no image.
    Failed,
    /// A dump that is refused with this text: no harm, no image.
    Refused(&'static str),
}

impl Mode {
    /// Its part of a test's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Cycles => "cycles",
            Mode::Running => "running",
            Mode::Live => "live",
            Mode::Failed => "failed",
            Mode::Refused(_) => "refused",
        }
    }

    /// Treats `victim` so.
    pub(crate) fn run(self, victim: &Victim) -> Result<(), String> {
        let mut theatre = Theatre::open(victim)?;
        let treated = match self {
            Mode::Cycles => cycles(&mut theatre),
            Mode::Running => running(&mut theatre),
            Mode::Live => live(&mut theatre),
            Mode::Failed => failed(&mut theatre),
            Mode::Refused(text) => refused(&mut theatre, text),
        };
        treated.map_err(|e| theatre.with_log(&e))?;
        theatre.close()
    }
}

fn cycles(theatre: &mut Theatre<'_>) -> Result<(), String> {
    for round in 0..ROUNDS {
        let before = theatre.look()?;
        let images = theatre.images(round);
        theatre.target.dump(&images, &theatre.victim.dump_args)?;
        let restored = theatre
            .target
            .restore(&images, &theatre.victim.restore_args)?;
        let after = theatre.look()?;
        let same = after.same_as(&before, &theatre.victim.allowed);
        same.map_err(|e| restored.describe(&format!("gave another process back\n{e}")))?;
        theatre.check()?;
    }
    Ok(())
}

fn running(theatre: &mut Theatre<'_>) -> Result<(), String> {
    for round in 0..ROUNDS {
        let before = theatre.look()?;
        let images = theatre.images(round);
        let dumped = theatre
            .target
            .dump_running(&images, &theatre.victim.dump_args)?;
        unharmed(theatre, &before).map_err(|e| dumped.describe(&e))?;
    }
    Ok(())
}

fn live(theatre: &mut Theatre<'_>) -> Result<(), String> {
    for round in 0..ROUNDS {
        let before = theatre.look()?;
        let images = theatre.images(round);
        let dumped = live_dump(theatre, &images)?;
        unharmed(theatre, &before).map_err(|e| dumped.describe(&e))?;
        no_child(theatre).map_err(|e| dumped.describe(&e))?;
    }
    let before = theatre.look()?;
    let images = theatre.images(ROUNDS);
    live_dump(theatre, &images)?;
    theatre.target.signal(rustix::process::Signal::KILL)?;
    theatre.target.wait()?;
    let args = &theatre.victim.restore_args;
    let restored = theatre.target.restore(&images, args)?;
    let same = theatre.look()?.same_as(&before, &theatre.victim.allowed);
    same.map_err(|e| restored.describe(&format!("gave another process back\n{e}")))?;
    theatre.check()
}

/// A dump in which the victim did not have to stand still.
fn live_dump(
    theatre: &mut Theatre<'_>,
    images: &std::path::Path,
) -> Result<crate::common::icecore::Finished, String> {
    let mut args = theatre.victim.dump_args.clone();
    args.push("--live");
    let dumped = theatre.target.dump_running(images, &args)?;
    match dumped.stderr.contains("in spite of --live") {
        true => Err(dumped.describe("was not live")),
        false => Ok(dumped),
    }
}

/// Nothing is left of the copies.
fn no_child(theatre: &Theatre<'_>) -> Result<(), String> {
    let pid = theatre.target.pid();
    let path = format!("/proc/{pid}/task/{pid}/children");
    match std::fs::read_to_string(&path) {
        Ok(children) if children.trim().is_empty() => Ok(()),
        other => Err(format!("a child is left: {other:?}")),
    }
}

fn failed(theatre: &mut Theatre<'_>) -> Result<(), String> {
    let before = theatre.look()?;
    let images = theatre.images(0);
    let scratch = images.parent().unwrap_or(&images);
    let pid = theatre.target.pid().to_string();
    let dump = Icecore::with_file_limit(scratch, "dump", 16).args(["-t", &pid]);
    let dump = dump.arg("-D").arg(&images).args(&theatre.victim.dump_args);
    let done = dump.run()?.expect_failure("error: ")?;
    no_image(&images).map_err(|e| done.describe(&e))?;
    unharmed(theatre, &before).map_err(|e| done.describe(&e))
}

fn refused(theatre: &mut Theatre<'_>, text: &str) -> Result<(), String> {
    let before = theatre.look()?;
    let images = theatre.images(0);
    let dump = theatre
        .target
        .dump_command(&images)
        .args(&theatre.victim.dump_args);
    let done = dump.run()?.expect_failure(text)?;
    no_image(&images).map_err(|e| done.describe(&e))?;
    unharmed(theatre, &before).map_err(|e| done.describe(&e))
}

/// The victim lives, looks as before and finds all well with itself.
fn unharmed(
    theatre: &mut Theatre<'_>,
    before: &crate::common::outside::Outside,
) -> Result<(), String> {
    theatre.target.alive()?;
    theatre.look()?.same_as(before, &theatre.victim.allowed)?;
    theatre.check()
}

/// Nothing that could be taken for an image is left.
fn no_image(images: &std::path::Path) -> Result<(), String> {
    match images.join("manifest").exists() {
        true => Err("left a manifest behind".to_owned()),
        false => Ok(()),
    }
}
