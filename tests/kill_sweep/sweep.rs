//! Killing icecore at every point, and looking at its target after each.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::target::Target;
use crate::common::wait;

/// A victim at work.
struct Victim {
    target: Target,
    beats: File,
    stderr: std::path::PathBuf,
    /// What it looks like when nothing is being done to it.
    at_rest: AtRest,
}

/// What of a process must be the same after each kill.
#[derive(Debug, PartialEq, Eq)]
struct AtRest {
    maps: String,
    masks: Vec<String>,
}

/// Sweeps over all points with the victim `name`.
pub(crate) fn run(name: &str) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut victim = Victim::start(name, dir.path())?;
    let images = dir.path().join("image");
    let started = Instant::now();
    let mut points = Vec::new();
    for kind in ["ptrace", "write"] {
        points.push(sweep(&mut victim, &images, kind)?);
    }
    println!(
        "kill sweep {name}: {} ptrace points, {} write points, 0 losses, {} EINTR, {:.1} s",
        points[0],
        points[1],
        victim.number_at(8)?,
        started.elapsed().as_secs_f32(),
    );
    Ok(())
}

/// Kills icecore at each point of a kind until it lives; gives their number.
fn sweep(victim: &mut Victim, images: &Path, kind: &str) -> Result<u32, String> {
    for point in 1.. {
        let fault = format!("{kind}:{point}");
        let dump = victim
            .target
            .dump_command(images)
            .arg("-R")
            .env("ICECORE_FAULT", &fault)
            .run()?;
        let context = |e: String| dump.describe(&format!("{fault}: {e}"));
        victim.is_unharmed().map_err(context)?;
        let killed = dump.status.signal() == Some(libc::SIGKILL);
        nothing_is_left(images, killed).map_err(context)?;
        if !killed {
            dump.expect_success()?;
            return Ok(point - 1);
        }
    }
    Err("there is no end of points".to_owned())
}

/// No image, or a whole one; then the directory is cleared for the next.
fn nothing_is_left(images: &Path, killed: bool) -> Result<(), String> {
    if killed && !images.join("manifest").exists() {
        return wait::until("the image's files to be removed", wait::LIMIT, || {
            Ok((!images.exists()).then_some(()))
        });
    }
    crate::common::icecore::Icecore::new(images.parent().unwrap_or(images), "verify")
        .arg("-D")
        .arg(images)
        .succeed()?;
    fs::remove_dir_all(images).map_err(|e| format!("remove {images:?}: {e}"))
}

impl Victim {
    fn start(name: &str, dir: &Path) -> Result<Self, String> {
        let create = |path: &Path| {
            File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(path)
                .map_err(|e| format!("create {path:?}: {e}"))
        };
        let (stdout, stderr) = (dir.join("beats"), dir.join("stderr"));
        let beats = create(&stdout)?;
        beats.set_len(16).map_err(|e| e.to_string())?;
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut command = Command::new("setsid");
        command
            .arg(program)
            .env("ICECORE_SWEEP_VICTIM", name)
            .stdin(Stdio::null())
            .stdout(beats.try_clone().map_err(|e| e.to_string())?)
            .stderr(create(&stderr)?);
        let mut victim = Self {
            target: Target::spawn(&mut command)?,
            beats,
            stderr,
            at_rest: AtRest {
                maps: String::new(),
                masks: Vec::new(),
            },
        };
        victim.beats_on(4)?;
        victim.at_rest = victim.look()?;
        Ok(victim)
    }

    fn number_at(&self, at: u64) -> Result<u64, String> {
        let mut word = [0; 8];
        self.beats
            .read_exact_at(&mut word, at)
            .map_err(|e| e.to_string())?;
        Ok(u64::from_le_bytes(word))
    }

    /// Waits until it has beaten `n` more times.
    fn beats_on(&mut self, n: u64) -> Result<(), String> {
        let goal = self.number_at(0)? + n;
        wait::until("the target to beat", Duration::from_secs(20), || {
            if let Some(status) = self.target.poll()? {
                let said = fs::read_to_string(&self.stderr).unwrap_or_default();
                return Err(format!("the target has ended: {status}: {said}"));
            }
            Ok((self.number_at(0)? >= goal).then_some(()))
        })
    }

    fn look(&self) -> Result<AtRest, String> {
        let pid = self.target.pid();
        let read = |path: String| fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"));
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| e.to_string())?;
        let mut masks = Vec::new();
        for task in tasks {
            let path = task.map_err(|e| e.to_string())?.path();
            let status = read(format!("{}/status", path.display()))?;
            let of_interest = ["Tgid", "Pid", "SigBlk", "TracerPid", "Threads"];
            let lines = status.lines().filter(|l| {
                let key = l.split(':').next().unwrap_or_default();
                of_interest.contains(&key)
            });
            masks.push(lines.collect::<Vec<_>>().join(" "));
        }
        masks.sort();
        Ok(AtRest {
            maps: read(format!("/proc/{pid}/maps"))?,
            masks,
        })
    }

    /// It goes on, and looks as it did.
    fn is_unharmed(&mut self) -> Result<(), String> {
        self.beats_on(2)?;
        let seen = self.look()?;
        match seen == self.at_rest {
            true => Ok(()),
            false => Err(format!("was {:#?}, is {seen:#?}", self.at_rest)),
        }
    }
}
