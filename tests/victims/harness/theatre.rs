//! The harness's side of a run: a directory, the victim in it, what it said.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::stage::{STAGE_VARIABLE, say};
use super::victim::{Play, Victim};
use crate::common::outside::Outside;
use crate::common::target::Target;
use crate::common::tree;
use crate::common::wait;

/// One run of a victim. Dropping it ends the victim and removes all files.
pub(crate) struct Theatre<'a> {
    pub(crate) victim: &'a Victim,
    pub(crate) target: Target,
    round: u32,
    dir: TempDir,
}

impl<'a> Theatre<'a> {
    /// Starts the victim and waits until it has set itself up.
    pub(crate) fn open(victim: &'a Victim) -> Result<Self, String> {
        let dir = TempDir::with_prefix("icecore-victim-");
        let dir = dir.map_err(|e| format!("make a directory: {e}"))?;
        let stage = dir.path().join("stage");
        // Victims of another user must get here too.
        let opened = fs::create_dir(&stage)
            .and_then(|()| fs::set_permissions(dir.path(), Permissions::from_mode(0o755)))
            .and_then(|()| fs::set_permissions(&stage, Permissions::from_mode(0o777)));
        opened.map_err(|e| format!("set up {}: {e}", stage.display()))?;
        let target = Target::spawn(&mut command(victim, dir.path())?)?;
        let mut theatre = Self {
            victim,
            target,
            round: 0,
            dir,
        };
        theatre.ready()?;
        Ok(theatre)
    }

    /// Lets the victim check itself and waits until it has.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        say(&self.stage(), format!("go-{}", self.round))?;
        self.round += 1;
        self.ready()
    }

    /// Ends the victim, which must say that all is well.
    pub(crate) fn close(mut self) -> Result<(), String> {
        let below = tree::below(self.target.pid());
        say(&self.stage(), "end")?;
        let status = self.target.wait().map_err(|e| self.with_log(&e))?;
        tree::end(&below);
        match status.success() {
            true => Ok(()),
            false => Err(self.with_log(&format!("the victim ended with {status}"))),
        }
    }

    /// A snapshot of the victim, which must show what it should show.
    pub(crate) fn look(&self) -> Result<Outside, String> {
        let seen = self.settled()?;
        if let Some(check) = self.victim.check {
            check(&seen).map_err(|e| self.with_log(&format!("seen from outside: {e}")))?;
        }
        Ok(seen)
    }

    /// A snapshot once nothing moves any more, apart from what may: threads
    /// that were just created, pools that grow and shrink. What never comes to
    /// rest is taken as it is.
    fn settled(&self) -> Result<Outside, String> {
        const PATIENCE: Duration = Duration::from_secs(3);
        let start = Instant::now();
        let mut last = Outside::of(self.target.pid())?;
        loop {
            std::thread::sleep(Duration::from_millis(5));
            let next = Outside::of(self.target.pid())?;
            let rests = next.same_as(&last, &self.victim.allowed).is_ok();
            if rests || start.elapsed() > PATIENCE {
                return Ok(next);
            }
            last = next;
        }
    }

    /// A directory for the image of round `number`, not yet there.
    pub(crate) fn images(&self, number: u32) -> PathBuf {
        self.dir.path().join(format!("image-{number}"))
    }

    /// `problem` together with what the victim has written.
    pub(crate) fn with_log(&self, problem: &str) -> String {
        let log = crate::common::icecore::lossy(&self.dir.path().join("log"));
        format!("{problem}\n-- log of victim {}\n{log}", self.victim.name)
    }

    fn stage(&self) -> PathBuf {
        self.dir.path().join("stage")
    }

    fn ready(&mut self) -> Result<(), String> {
        let word = self.stage().join(format!("ready-{}", self.round));
        let target = &mut self.target;
        let waited = wait::until("the victim to be ready", wait::LIMIT, || {
            if word.exists() {
                return Ok(Some(()));
            }
            match target.poll()? {
                Some(status) => Err(format!("the victim ended with {status}")),
                None => Ok(None),
            }
        });
        waited.map_err(|e| self.with_log(&e))
    }
}

/// The command that starts the victim, with nothing of ours open in it.
fn command(victim: &Victim, dir: &Path) -> Result<Command, String> {
    let log = File::create(dir.join("log")).map_err(|e| format!("make a log: {e}"))?;
    let mut command = match victim.play {
        Play::Body(_) => this_program()?,
        Play::Program(make) => make(&dir.join("stage"))?,
    };
    command
        .env("ICECORE_VICTIM", victim.name)
        .env(STAGE_VARIABLE, dir.join("stage"))
        .env("RUST_BACKTRACE", "0")
        .current_dir(dir.join("stage"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    if let Some(prepare) = victim.prepare {
        prepare(&mut command)?;
    }
    Ok(command)
}

fn this_program() -> Result<Command, String> {
    let this = std::env::current_exe().map_err(|e| format!("find this program: {e}"))?;
    Ok(Command::new(this))
}
