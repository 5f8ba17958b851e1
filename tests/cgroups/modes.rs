//! The table: mode of the dump × mode of the restore × what there is, on v1 and
//! v2. Every cell is looked at: where the task is, what the cgroup is set to
//! and whose it is, what a refusal says, what is left.

use std::path::Path;

use rustix::process::Signal;

use crate::common::icecore::Icecore;
use crate::common::target::Target;
use crate::place::{self, Enabled, Version, Yard, alone, enter, give, owner, read, write};
use crate::{Result, scratch};

/// As on the command line; empty: not given.
const MODES: [&str; 7] = ["", "ignore", "none", "props", "soft", "full", "strict"];

/// What there is at the restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Exists,
    Missing,
    Other,
}

/// What is expected of a restore.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    /// Refused with these words.
    Refused(&'static str),
    /// The task is in icecore's own cgroup; and this is said, or not.
    Outside { said: bool },
    /// The task is in the cgroup, which was made, or set, or neither.
    Inside { made: bool, set: bool },
}

fn records(dump: &str) -> u32 {
    match dump {
        "ignore" => 0,
        "none" => 1,
        "props" => 2,
        _ => 3,
    }
}

/// DESIGN.md's table.
fn expected(dump: &str, restore: &str, there: There) -> Expected {
    let missing = there == There::Missing;
    match restore {
        "" => Expected::Outside {
            said: records(dump) > 0,
        },
        "ignore" => Expected::Outside { said: false },
        mode if records(dump) < records(mode) => Expected::Refused("it was dumped"),
        "none" | "props" if missing => Expected::Refused("does not exist"),
        "strict" if !missing => Expected::Refused("exists already"),
        mode => Expected::Inside {
            made: missing,
            set: missing || mode == "props" || mode == "full",
        },
    }
}

const OWNER: (u32, u32, u32) = (1234, 1235, 0o750);
const FILE_OWNER: (u32, u32, u32) = (1234, 1235, 0o640);
const ROOTS: (u32, u32, u32) = (0, 0, 0o755);

struct Table {
    version: Version,
    controller: &'static str,
    property: &'static str,
    /// What the property is at the dump, and otherwise.
    recorded: &'static str,
    other: &'static str,
}

const V1: Table = Table {
    version: Version::V1("pids"),
    controller: "pids",
    property: "pids.max",
    recorded: "77",
    other: "99",
};

const V2: Table = Table {
    version: Version::V2,
    controller: "cgroup2",
    property: "hugetlb.2MB.max",
    recorded: "4194304",
    other: "8388608",
};

impl Table {
    fn set_up(&self, dir: &Path, value: &str) -> Result {
        if !dir.is_dir() {
            std::fs::create_dir(dir).map_err(|e| e.to_string())?;
        }
        write(&dir.join(self.property), value)
    }

    fn row(&self, dump: &str) -> Result {
        let _alone = alone()?;
        let _enabled = (self.version == Version::V2).then(|| Enabled::new("hugetlb"));
        let yard = Yard::new(self.version, "modes")?;
        if self.version == Version::V2 {
            write(&yard.dir.join("cgroup.subtree_control"), "+hugetlb")?;
        }
        let dir = yard.make("job")?;
        self.set_up(&dir, self.recorded)?;
        give(&dir, OWNER)?;
        give(&dir.join(self.property), FILE_OWNER)?;

        let scratch = scratch()?;
        let images = scratch.path().join("image");
        let mut target = Target::sleeper()?;
        enter(&dir, target.pid())?;
        // The other hierarchies are not a test's own.
        let mut args = vec![format!("--cgroup-dump-controller={}", self.controller)];
        args.extend(option(dump));
        target.dump(
            &images,
            &args.iter().map(String::as_str).collect::<Vec<_>>(),
        )?;
        for restore in MODES {
            for there in [There::Exists, There::Missing, There::Other] {
                let cell = format!("dumped {dump:?}, restored {restore:?}, {there:?}");
                self.cell(&dir, &images, &mut target, (dump, restore, there))
                    .map_err(|e| format!("{cell}: {e}"))?;
            }
        }
        Ok(())
    }

    fn cell(
        &self,
        dir: &Path,
        images: &Path,
        target: &mut Target,
        (dump, restore, there): (&str, &str, There),
    ) -> Result {
        place::remove_all(dir);
        match there {
            There::Missing => {}
            There::Exists => self.set_up(dir, self.recorded)?,
            There::Other => self.set_up(dir, self.other)?,
        }
        let done = Icecore::new(images.parent().unwrap_or(images), "restore")
            .arg("-d")
            .arg("-D")
            .arg(images)
            .args(option(restore))
            .run()?;
        let was = (there == There::Missing, there == There::Other);
        match expected(dump, restore, there) {
            Expected::Refused(words) => {
                done.expect_failure(words)?;
                same(
                    "a task",
                    &Path::new(&format!("/proc/{}", target.pid())).exists(),
                    &false,
                )?;
                return self.untouched(dir, was);
            }
            Expected::Outside { said } => {
                let done = done.expect_success()?;
                same(
                    "said",
                    &done.stderr.contains("stay in icecore's own"),
                    &said,
                )?;
                let own = self.version.of(std::process::id())?;
                same("place", &self.version.of(target.pid())?, &own)?;
                self.untouched(dir, was)?;
            }
            Expected::Inside { made, set } => {
                done.expect_success()?;
                let place = self.version.of(target.pid())?;
                same("place", &place.ends_with("/icecore-test-modes/job"), &true)?;
                let other = there == There::Other && !set;
                let value = if other { self.other } else { self.recorded };
                same(
                    "property",
                    &read(&dir.join(self.property))?.as_str(),
                    &value,
                )?;
                let whole = made && records(dump) == 3;
                same("owner", &owner(dir)?, &if whole { OWNER } else { ROOTS })?;
                if whole {
                    same("file", &owner(&dir.join(self.property))?, &FILE_OWNER)?;
                }
            }
        }
        target.restored()?;
        target.signal(Signal::KILL)?;
        target.wait().map(drop)
    }

    /// Nothing was made, set or given to anybody.
    fn untouched(&self, dir: &Path, (missing, other): (bool, bool)) -> Result {
        same("cgroup", &dir.exists(), &!missing)?;
        if missing {
            return Ok(());
        }
        let value = if other { self.other } else { self.recorded };
        same(
            "property",
            &read(&dir.join(self.property))?.as_str(),
            &value,
        )?;
        same("owner", &owner(dir)?, &ROOTS)?;
        same("members", &read(&dir.join("cgroup.procs"))?.as_str(), &"")
    }
}

fn option(mode: &str) -> Vec<String> {
    match mode {
        "" => Vec::new(),
        mode => vec![format!("--manage-cgroups={mode}")],
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, wanted: &T) -> Result {
    match got == wanted {
        true => Ok(()),
        false => Err(format!("{what} is {got:?}, not {wanted:?}")),
    }
}

macro_rules! rows {
    ($($name:ident $dump:literal)+) => {
        mod v1 {
            $(#[test] fn $name() -> super::Result { super::V1.row($dump) })+
        }
        mod v2 {
            $(#[test] fn $name() -> super::Result { super::V2.row($dump) })+
        }
    };
}

rows! {
    dumped_without_a_mode ""
    dumped_with_ignore "ignore"
    dumped_with_none "none"
    dumped_with_props "props"
    dumped_with_soft "soft"
    dumped_with_full "full"
    dumped_with_strict "strict"
}
