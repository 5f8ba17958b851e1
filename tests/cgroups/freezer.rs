//! Frozen cgroups: those that freeze the target for a dump are thawed on every
//! way out, those that were frozen before are left frozen.

use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::common::icecore::Icecore;
use crate::common::target::Target;
use crate::common::wait;
use crate::place::{Version, Yard, alone, enter, read, write};
use crate::{Result, scratch};

struct Freezer {
    version: Version,
    file: &'static str,
    frozen: &'static str,
    thawed: &'static str,
}

const V1: Freezer = Freezer {
    version: Version::V1("freezer"),
    file: "freezer.state",
    frozen: "FROZEN",
    thawed: "THAWED",
};

const V2: Freezer = Freezer {
    version: Version::V2,
    file: "cgroup.freeze",
    frozen: "1",
    thawed: "0",
};

/// A target in a cgroup.
struct Cold {
    _alone: std::fs::File,
    // Before the yard, which waits for its end.
    target: Target,
    yard: Yard,
    dir: PathBuf,
    scratch: tempfile::TempDir,
}

impl Freezer {
    fn target(&self) -> Result<Cold> {
        let alone = alone()?;
        let yard = Yard::new(self.version, "freezer")?;
        let dir = yard.make("job")?;
        let target = Target::sleeper()?;
        enter(&dir, target.pid())?;
        Ok(Cold {
            _alone: alone,
            target,
            yard,
            dir,
            scratch: scratch()?,
        })
    }

    fn freezes_and_thaws(&self) -> Result {
        let mut cold = self.target()?;
        let option = format!("--freeze-cgroup={}", cold.dir.display());
        let images = cold.scratch.path().join("a");
        cold.target.dump_running(&images, &[&option])?;
        self.says(&cold.dir, self.thawed)?;
        // Refused: the directory is an image.
        let again = cold
            .target
            .dump_command(&images)
            .args(["-R", &option])
            .run()?;
        again.expect_failure("")?;
        self.says(&cold.dir, self.thawed)?;
        // Killed half-way.
        for at in [1, 7, 23] {
            let images = cold.scratch.path().join(format!("killed-{at}"));
            let killed = cold.target.dump_command(&images);
            let killed = killed
                .args(["-R", &option])
                .env("ICECORE_FAULT", format!("ptrace:{at}"));
            assert!(!killed.run()?.status.success());
            wait::until("the guardian to thaw it", wait::LIMIT, || {
                Ok((read(&cold.dir.join(self.file))? == self.thawed).then_some(()))
            })?;
            cold.target.alive()?;
        }
        cold.target
            .dump(&cold.scratch.path().join("b"), &[&option])?;
        self.says(&cold.dir, self.thawed)
    }

    fn is_left_frozen(&self) -> Result {
        let mut cold = self.target()?;
        write(&cold.dir.join(self.file), self.frozen)?;
        wait::until("it to stand still", wait::LIMIT, || {
            self.stands_still(&cold.dir)
        })?;
        cold.target
            .dump_running(&cold.scratch.path().join("a"), &[])?;
        self.says(&cold.dir, self.frozen)?;
        let images = cold.scratch.path().join("b");
        cold.target.dump(&images, &["--manage-cgroups"])?;
        self.says(&cold.dir, self.frozen)?;
        let shown = Icecore::new(cold.scratch.path(), "inspect")
            .arg(&images)
            .succeed()?;
        assert!(
            shown.stdout.contains("/job (frozen): pid"),
            "{}",
            shown.stdout
        );

        let refused = Icecore::new(cold.scratch.path(), "restore")
            .arg("-D")
            .arg(&images);
        let refused = refused.args(["-d", "--manage-cgroups"]).run()?;
        refused.expect_failure("is frozen: what enters it stands still")?;
        crate::place::remove_all(&cold.dir);
        cold.target.restore(&images, &["--manage-cgroups"])?;
        self.says(&cold.dir, self.frozen)?;
        wait::until("it to stand still", wait::LIMIT, || {
            self.stands_still(&cold.dir)
        })?;
        write(&cold.dir.join(self.file), self.thawed)?;
        cold.target.signal(Signal::KILL)?;
        cold.target.wait()?;
        assert!(cold.yard.dir.is_dir());
        Ok(())
    }

    fn stands_still(&self, dir: &Path) -> Result<Option<()>> {
        let still = match self.version {
            Version::V1(_) => read(&dir.join(self.file))? == "FROZEN",
            Version::V2 => read(&dir.join("cgroup.events"))?.contains("frozen 1"),
        };
        Ok(still.then_some(()))
    }

    fn says(&self, dir: &Path, word: &str) -> Result {
        let said = read(&dir.join(self.file))?;
        (said == word)
            .then_some(())
            .ok_or(format!("{dir:?} says {said}, not {word}"))
    }
}

#[test]
fn a_cgroup_of_v1_freezes_the_target_for_the_dump() -> Result {
    V1.freezes_and_thaws()
}

#[test]
fn a_cgroup_of_v2_freezes_the_target_for_the_dump() -> Result {
    V2.freezes_and_thaws()
}

#[test]
fn a_frozen_cgroup_of_v1_is_left_as_found() -> Result {
    V1.is_left_frozen()
}

#[test]
fn a_frozen_cgroup_of_v2_is_left_as_found() -> Result {
    V2.is_left_frozen()
}

#[test]
fn a_frozen_cgroup_with_others_in_it_is_refused() -> Result {
    let mut cold = V2.target()?;
    let other = Target::sleeper()?;
    enter(&cold.dir, other.pid())?;
    write(&cold.dir.join("cgroup.freeze"), "1")?;
    let refused = cold
        .target
        .dump_command(&cold.scratch.path().join("a"))
        .arg("-R")
        .run()?;
    refused.expect_failure(&format!("pid {} is in it and not in the dump", other.pid()))?;
    V2.says(&cold.dir, "1")?;
    write(&cold.dir.join("cgroup.freeze"), "0")?;
    cold.target.alive()
}
