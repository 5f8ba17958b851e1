//! The victim's side: announcing that it is ready, waiting to be told to go on.
//!
//! Both sides talk through files in a directory, so that nothing leads out of
//! the victim: no pipe, no socket, no terminal. A file appears by rename, so no
//! descriptor is open on it any more once it can be seen.

use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::victim::{Play, Victim};

/// Where a victim finds its stage's directory.
pub(crate) const STAGE_VARIABLE: &str = "ICECORE_STAGE";

/// A victim whose harness is gone ends by itself after this time.
const ABANDONED: Duration = Duration::from_secs(300);

/// The victim's view of a run.
#[derive(Debug)]
pub(crate) struct Stage {
    dir: PathBuf,
    round: u32,
    deadline: Instant,
}

/// Plays the victim called `name`: what `main` does when it is one.
pub(crate) fn play(victims: &[Victim], name: &str) -> ExitCode {
    let played = match victims.iter().find(|v| v.name == name).map(|v| v.play) {
        Some(Play::Body(body)) => Stage::enter().and_then(|mut stage| body(&mut stage)),
        _ => Err(format!("there is no victim called {name}")),
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("victim {name}: {e}");
            ExitCode::FAILURE
        }
    }
}

impl Stage {
    fn enter() -> Result<Self, String> {
        rustix::process::setsid().map_err(|e| format!("make a session: {e}"))?;
        let dir = std::env::var_os(STAGE_VARIABLE).ok_or("no stage")?;
        Ok(Self {
            dir: dir.into(),
            round: 0,
            deadline: Instant::now() + ABANDONED,
        })
    }

    /// Says that the victim is ready for what comes (the first time: set up;
    /// later: checked) and waits. True: check yourself and come back. False:
    /// it is over.
    pub(crate) fn next(&mut self) -> Result<bool, String> {
        let words = Words::of(&self.dir, self.round)?;
        say(&self.dir, format!("ready-{}", self.round))?;
        self.round += 1;
        loop {
            if exists(&words.go) {
                return Ok(true);
            }
            if exists(&words.end) {
                return Ok(false);
            }
            if Instant::now() > self.deadline {
                return Err("abandoned by the harness".to_owned());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// How often the victim has been through [`next`](Self::next).
    pub(crate) fn round(&self) -> u32 {
        self.round
    }

    /// Finds the stage through the working directory, which it is at first,
    /// from here on: for victims that change their root.
    pub(crate) fn go_by_working_directory(&mut self) {
        self.dir = ".".into();
    }

    /// A directory of the victim's own, removed after the run.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The words the harness may say in a round, ready for asking without
/// allocating memory while being watched.
struct Words {
    go: CString,
    end: CString,
}

impl Words {
    fn of(dir: &Path, round: u32) -> Result<Self, String> {
        let word = |name: String| {
            let path = dir.join(name);
            CString::new(path.as_os_str().as_bytes()).map_err(|e| e.to_string())
        };
        Ok(Self {
            go: word(format!("go-{round}"))?,
            end: word("end".to_owned())?,
        })
    }
}

fn exists(path: &CString) -> bool {
    rustix::fs::stat(path.as_c_str()).is_ok()
}

/// Says `word` to whoever looks into `dir`.
pub(crate) fn say(dir: &Path, word: impl AsRef<OsStr>) -> Result<(), String> {
    let draft = dir.join(".draft");
    let said = fs::write(&draft, "").and_then(|()| fs::rename(&draft, dir.join(word.as_ref())));
    said.map_err(|e| format!("say {:?}: {e}", word.as_ref()))
}
