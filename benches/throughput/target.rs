//! The program that is put to sleep. It fills memory, says so, and from then on
//! looks at its memory whenever it is asked to.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use memmap2::{Advice, MmapMut};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::Outcome;
use crate::case::Case;

/// By which the bench knows that it is to be the target.
pub(crate) const VARIABLE: &str = "ICECORE_BENCH_TARGET";
const PAGE: usize = 4096;

/// Plays the target; ends when its directory has gone.
pub(crate) fn play(case: &str) -> Outcome<()> {
    let case = Case::parse(case).ok_or("no such case")?;
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("no directory")?);
    rustix::process::setsid()?;
    let areas = fill(&case)?;
    let checksum = checksum(&areas);
    std::fs::write(dir.join("ready"), "")?;
    let mut asked = 0;
    while dir.exists() {
        std::thread::sleep(Duration::from_millis(2));
        if dir.join(format!("look-{asked}")).exists() {
            let word = if self::checksum(&areas) == checksum {
                "same"
            } else {
                "other"
            };
            std::fs::write(dir.join(format!("{word}-{asked}")), "")?;
            asked += 1;
        }
    }
    Ok(())
}

fn checksum(areas: &[MmapMut]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    areas.iter().for_each(|area| hasher.update(area));
    hasher.finalize()
}

fn fill(case: &Case) -> Outcome<Vec<MmapMut>> {
    let (count, every) = match case.layout {
        "2000-areas" => (2000, 1),
        "every-other-page" => (1, 2),
        _ => (1, 1),
    };
    let size = (case.size as usize / count).next_multiple_of(PAGE) * every;
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    let mut areas = Vec::with_capacity(count);
    for number in 0..count {
        let mut area = MmapMut::map_anon(size)?;
        area.advise(match case.pages {
            "thp" => Advice::HugePage,
            _ => Advice::NoHugePage,
        })?;
        if number % 2 == 1 {
            // Not like its neighbours: the kernel keeps them apart.
            area.advise(Advice::Random)?;
        }
        for page in area.chunks_exact_mut(PAGE).step_by(every) {
            write_page(page, case.content, &mut seed);
        }
        areas.push(area);
    }
    Ok(areas)
}

fn write_page(page: &mut [u8], content: &str, seed: &mut u64) {
    match content {
        "zeros" => page.fill(0),
        "duplicate" => page.fill(0x5a),
        _ => {
            for word in page.chunks_exact_mut(8) {
                *seed ^= *seed << 13;
                *seed ^= *seed >> 7;
                *seed ^= *seed << 17;
                let bytes = seed.to_le_bytes();
                match content {
                    // Four bits of chance in each byte.
                    "text" => word.copy_from_slice(&bytes.map(|b| b'a' + (b & 15))),
                    _ => word.copy_from_slice(&bytes),
                }
            }
        }
    }
}

/// The bench's side of it.
#[derive(Debug)]
pub(crate) struct Target {
    pid: Pid,
    dir: PathBuf,
    asked: u32,
}

impl Target {
    /// Starts one and waits until its memory is filled.
    pub(crate) fn start(case: &Case, dir: &Path) -> Outcome<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env_clear().env(VARIABLE, case.to_text()).arg(dir);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        icecore::kernel::inherited::keep_from_children()?;
        let child = command.current_dir("/").spawn()?;
        let target = Self {
            pid: Pid::from_child(&child),
            dir: dir.to_owned(),
            asked: 0,
        };
        target.wait_for("ready")?;
        Ok(target)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    /// Takes note of its end.
    pub(crate) fn reap(&self) -> Outcome<()> {
        waitpid(Some(self.pid), WaitOptions::empty())?;
        Ok(())
    }

    /// An error unless its memory is what it was.
    pub(crate) fn verify(&mut self) -> Outcome<()> {
        std::fs::write(self.dir.join(format!("look-{}", self.asked)), "")?;
        let (same, other) = (
            format!("same-{}", self.asked),
            format!("other-{}", self.asked),
        );
        self.asked += 1;
        let found = self.wait_for_any(&[&same, &other])?;
        match found {
            0 => Ok(()),
            _ => Err("the restored memory is not what was dumped".into()),
        }
    }

    fn wait_for(&self, word: &str) -> Outcome<()> {
        self.wait_for_any(&[word]).map(drop)
    }

    fn wait_for_any(&self, words: &[&str]) -> Outcome<usize> {
        const LIMIT: Duration = Duration::from_secs(300);
        let since = Instant::now();
        loop {
            if let Some(found) = words.iter().position(|word| self.dir.join(word).exists()) {
                return Ok(found);
            }
            if since.elapsed() > LIMIT || waitpid(Some(self.pid), WaitOptions::NOHANG)?.is_some() {
                return Err(format!("the target did not say {words:?}").into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // It is a child of this process, also when it was restored.
        if let Ok(None) = waitpid(Some(self.pid), WaitOptions::NOHANG) {
            let _ = kill_process(self.pid, Signal::KILL);
            let _ = self.reap();
        }
    }
}
