//! Setting properties: each in the kernel's own words, none that says so
//! already, in whatever order the kernel takes them.

use std::io;
use std::path::{Path, PathBuf};

use icecore_images::cgroup::CgroupProperty;

use super::check::words;
use super::made::Made;
use crate::error::RestoreError;
use crate::kernel::cgroupfs;

/// A property to be set.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    /// Directory of the cgroup.
    pub(super) dir: PathBuf,
    /// What the cgroup is called.
    pub(super) label: String,
    pub(super) name: String,
    pub(super) value: Vec<u8>,
}

impl Setting {
    pub(super) fn new(dir: &Path, label: String, property: &CgroupProperty) -> Self {
        Self {
            dir: dir.to_owned(),
            label,
            name: property.name.clone(),
            value: property.value.0.clone(),
        }
    }

    /// `memory.max = 4096`.
    pub(super) fn shown(&self) -> String {
        let value = icecore_images::ByteString::from(self.value.clone());
        format!("{} = {value}", self.name)
    }

    pub(super) fn failed(&self, source: io::Error) -> RestoreError {
        RestoreError::Rebuild {
            what: format!("cgroup {}: {}", self.label, self.shown()),
            source,
        }
    }

    pub(super) fn now(&self) -> io::Result<Option<Vec<u8>>> {
        cgroupfs::setting(&self.dir, &self.name)
    }

    /// What is to be written, line by line, so that a file that says `now` says
    /// `then`.
    fn lines(&self, now: &[u8], then: &[u8]) -> Vec<Vec<u8>> {
        match self.name.as_str() {
            "cgroup.subtree_control" => enable(now, then),
            "devices.list" => Vec::new(),
            name => {
                let gone = lines(now).filter_map(|line| unset(name, line, then));
                let mut all: Vec<Vec<u8>> = gone.collect();
                match then.is_empty() {
                    true if all.is_empty() => all.push(b"\n".to_vec()),
                    _ => all.extend(lines(then).map(<[u8]>::to_vec)),
                }
                all
            }
        }
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&b| b == b'\n').filter(|line| !line.is_empty())
}

/// `+pids -memory`.
fn enable(now: &[u8], then: &[u8]) -> Vec<Vec<u8>> {
    let (now, then) = (words(now), words(then));
    let on = then.iter().filter(|name| !now.contains(name));
    let off = now.iter().filter(|name| !then.contains(name));
    let signed = on.map(|name| format!("+{name}"));
    let signed = signed.chain(off.map(|name| format!("-{name}")));
    signed.map(String::into_bytes).collect()
}

/// How the limit of a device that `then` has nothing about is taken away.
fn unset(name: &str, line: &[u8], then: &[u8]) -> Option<Vec<u8>> {
    let key = |line: &[u8]| words(line).into_iter().next();
    let device = key(line)?;
    if lines(then).any(|line| key(line).as_ref() == Some(&device)) {
        return None;
    }
    let nothing = match name {
        "io.max" => "rbps=max wbps=max riops=max wiops=max",
        "io.latency" => "target=0",
        _ if name.ends_with("_device") => "0",
        _ => return None,
    };
    Some(format!("{device} {nothing}").into_bytes())
}

/// Sets all, again and again as long as that helps: limits depend on each
/// other. Returns what the kernel does not take.
pub(super) fn all(made: &mut Made, mut settings: Vec<Setting>) -> Vec<(Setting, io::Error)> {
    loop {
        let before = settings.len();
        let mut refused = Vec::new();
        for setting in settings {
            if let Err(e) = one(made, &setting) {
                refused.push((setting, e));
            }
        }
        if refused.is_empty() || refused.len() == before {
            return refused;
        }
        settings = refused.into_iter().map(|(setting, _)| setting).collect();
    }
}

/// Sets a property, unless it says so already.
fn one(made: &mut Made, setting: &Setting) -> io::Result<()> {
    let now = setting.now()?.ok_or(io::ErrorKind::NotFound)?;
    if same(&now, &setting.value) {
        return Ok(());
    }
    if setting.name == "devices.list" {
        return devices(made, setting, &now);
    }
    let file = setting.dir.join(&setting.name);
    if !made.created.contains(&setting.dir) {
        for line in setting.lines(&setting.value, &now).into_iter().rev() {
            made.write_back_later(&file, &line)?;
        }
    }
    write_lines(&file, setting.lines(&now, &setting.value))
}

fn same(now: &[u8], then: &[u8]) -> bool {
    now.trim_ascii() == then.trim_ascii()
}

fn write_lines(file: &Path, lines: Vec<Vec<u8>>) -> io::Result<()> {
    lines.iter().try_for_each(|line| write(file, line))
}

/// Writes to a file of the kernel's, which is neither made nor cut back.
pub(super) fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().write(true).open(file)?;
    file.write_all(bytes)
}

/// Sets a property of a cgroup that was just made, to see whether the kernel
/// takes it, and puts it back.
pub(super) fn attempt(made: &mut Made, settings: &[Setting]) -> Vec<(Setting, io::Error)> {
    let before: Vec<_> = settings.iter().map(|s| s.now().ok().flatten()).collect();
    let refused = all(made, settings.to_vec());
    let mut back: Vec<Setting> = settings
        .iter()
        .zip(before)
        .filter_map(|(setting, before)| {
            let value = before?;
            Some(Setting {
                value,
                ..setting.clone()
            })
        })
        .collect();
    back.reverse();
    // What cannot be put back is what it will be anyway.
    let _ = all(made, back);
    refused
}

/// Everything, as a list of devices has it.
const ALL: &str = "a *:* rwm";

/// A list of devices is changed entry by entry; a whole one is thrown away only
/// in a cgroup of ours, which has no children yet.
fn devices(made: &mut Made, setting: &Setting, now: &[u8]) -> io::Result<()> {
    let [allow, deny] = ["devices.allow", "devices.deny"].map(|file| setting.dir.join(file));
    let entries = |text: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(text).into_owned();
        text.lines().map(str::to_owned).collect()
    };
    let (now, then) = (entries(now), entries(&setting.value));
    if then == [ALL] {
        return write(&allow, b"a");
    }
    if now == [ALL] {
        write(&deny, b"a")?;
        return then
            .iter()
            .try_for_each(|entry| write(&allow, entry.as_bytes()));
    }
    let ours = made.created.contains(&setting.dir);
    for (file, back, from, to) in [(&allow, &deny, &then, &now), (&deny, &allow, &now, &then)] {
        for entry in from.iter().filter(|entry| !to.contains(entry)) {
            if !ours {
                made.write_back_later(back, entry.as_bytes())?;
            }
            write(file, entry.as_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str) -> Setting {
        Setting {
            dir: PathBuf::new(),
            label: String::new(),
            name: name.to_owned(),
            value: Vec::new(),
        }
    }

    fn written(name: &str, now: &str, then: &str) -> Vec<String> {
        let lines = setting(name).lines(now.as_bytes(), then.as_bytes());
        let text = |line: Vec<u8>| String::from_utf8_lossy(&line).into_owned();
        lines.into_iter().map(text).collect()
    }

    #[test]
    fn values_are_written_line_by_line() {
        assert_eq!(written("pids.max", "max", "5"), ["5"]);
        assert_eq!(
            written("cgroup.subtree_control", "pids", "cpu memory"),
            ["+cpu", "+memory", "-pids"]
        );
        assert_eq!(
            written("io.max", "8:0 wbps=1", "8:16 rbps=2"),
            ["8:0 rbps=max wbps=max riops=max wiops=max", "8:16 rbps=2"]
        );
        assert_eq!(
            written("blkio.throttle.read_bps_device", "8:0 1", ""),
            ["8:0 0"]
        );
        assert_eq!(written("cpuset.cpus", "0-1", ""), ["\n"]);
        assert_eq!(
            written("io.weight", "default 100", "default 50\n8:0 7"),
            ["default 50", "8:0 7"]
        );
    }
}
