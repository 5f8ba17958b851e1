//! A victim seen from the test.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::target::Target;
use crate::common::wait;

/// A victim at work.
pub(crate) struct Victim {
    pub(crate) target: Target,
    name: String,
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

impl Victim {
    /// Starts it and waits until it is at work.
    pub(crate) fn start(name: &str, dir: &Path) -> Result<Self, String> {
        let mut victim = Self::launch(name, dir)?;
        victim.settle()?;
        Ok(victim)
    }

    /// The same in the cgroup with this `cgroup.procs`.
    pub(crate) fn start_in(name: &str, dir: &Path, entrance: &Path) -> Result<Self, String> {
        let mut shell = Command::new("/bin/sh");
        let script = "echo $$ >\"$0\" && exec setsid \"$@\"";
        shell.args(["-c", script]).arg(entrance);
        let mut victim = Self::launch_through(shell, name, dir)?;
        victim.settle()?;
        Ok(victim)
    }

    fn settle(&mut self) -> Result<(), String> {
        self.beats_on(4)?;
        // All its threads are there once nothing changes any more.
        wait::until("the target to settle", wait::LIMIT, || {
            self.at_rest = self.look()?;
            std::thread::sleep(Duration::from_millis(100));
            self.beats_on(2)?;
            Ok((self.look()? == self.at_rest).then_some(()))
        })
    }

    /// Starts it.
    pub(crate) fn launch(name: &str, dir: &Path) -> Result<Self, String> {
        Self::launch_through(Command::new("setsid"), name, dir)
    }

    fn launch_through(mut command: Command, name: &str, dir: &Path) -> Result<Self, String> {
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
        command
            .arg(program)
            .env("ICECORE_SWEEP_VICTIM", name)
            .stdin(Stdio::null())
            .stdout(beats.try_clone().map_err(|e| e.to_string())?)
            .stderr(create(&stderr)?);
        Ok(Self {
            target: Target::spawn(&mut command)?,
            name: name.to_owned(),
            beats,
            stderr,
            at_rest: AtRest {
                maps: String::new(),
                masks: Vec::new(),
            },
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn number_at(&self, at: u64) -> Result<u64, String> {
        let mut word = [0; 8];
        self.beats
            .read_exact_at(&mut word, at)
            .map_err(|e| e.to_string())?;
        Ok(u64::from_le_bytes(word))
    }

    /// Waits until it has beaten `n` more times.
    pub(crate) fn beats_on(&mut self, n: u64) -> Result<(), String> {
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
        let mut all = AtRest {
            maps: String::new(),
            masks: Vec::new(),
        };
        let mut pids = vec![self.target.pid()];
        while let Some(pid) = pids.pop() {
            let one = Self::look_at(pid)?;
            all.maps.push_str(&one.maps);
            all.masks.extend(one.masks);
            // The children of the other victims come and go.
            if self.name == "tree" {
                let children = format!("/proc/{pid}/task/{pid}/children");
                let children = fs::read_to_string(children).map_err(|e| e.to_string())?;
                pids.extend(children.split_whitespace().flat_map(str::parse::<u32>));
            }
        }
        Ok(all)
    }

    fn look_at(pid: u32) -> Result<AtRest, String> {
        let read = |path: String| fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"));
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| e.to_string())?;
        let mut masks = Vec::new();
        for task in tasks {
            let path = task.map_err(|e| e.to_string())?.path();
            // A thread that has ended since is none of the target's any more.
            let Ok(status) = fs::read_to_string(path.join("status")) else {
                continue;
            };
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

    /// It goes on, and looks as it did (again soon: it may be looked at inside
    /// a handler, which blocks its signal).
    pub(crate) fn is_unharmed(&mut self) -> Result<(), String> {
        self.beats_on(2)?;
        let mut difference = String::new();
        let same = wait::until(
            "the target to look as it did",
            Duration::from_secs(2),
            || {
                difference = self.look()?.difference(&self.at_rest);
                Ok(difference.is_empty().then_some(()))
            },
        );
        same.map_err(|e| format!("{e}: {difference}"))
    }
}

impl AtRest {
    /// Lines of one that are not in the other.
    fn difference(&self, before: &Self) -> String {
        let lines = |of: &Self| -> Vec<String> {
            let lines = of.maps.lines().chain(of.masks.iter().map(String::as_str));
            lines.map(str::to_owned).collect()
        };
        let (is, was) = (lines(self), lines(before));
        let gone = was
            .iter()
            .filter(|l| !is.contains(l))
            .map(|l| format!("-{l}"));
        let new = is
            .iter()
            .filter(|l| !was.contains(l))
            .map(|l| format!("+{l}"));
        gone.chain(new).collect::<Vec<_>>().join("\n")
    }
}
