//! Locks that somebody else has taken on a sleeping task's files: the plan
//! names file and holder, nothing is left behind, and once they are given up
//! the task wakes and has its own again.

mod common;

use std::error::Error;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use common::icecore::Icecore;
use common::target::Target;
use rustix::fs::{FlockOperation, fcntl_lock, flock};

type Outcome = Result<(), Box<dyn Error>>;

/// A program that holds `flocked` and `locked` (F_SETLK).
fn holder(dir: &Path) -> Result<Target, Box<dyn Error>> {
    for name in ["flocked", "locked"] {
        fs::write(dir.join(name), "contents\n")?;
    }
    let program = "open F, '+<', 'flocked' or die; flock F, 2 or die; \
         open L, '+<', 'locked' or die; \
         my $lock = pack 's!s!x4qqlx4', 1, 0, 3, 0, 0; fcntl L, 6, $lock or die; \
         mkdir 'ready' or die; sleep 300";
    let mut command = Command::new("setsid");
    let null = || Stdio::null();
    command.args(["perl", "-e", program]).current_dir(dir);
    command.stdin(null()).stdout(null()).stderr(null());
    let target = Target::spawn(&mut command)?;
    common::wait::until("the locks", common::wait::LIMIT, || {
        Ok(dir.join("ready").is_dir().then_some(()))
    })?;
    Ok(target)
}

fn open(path: &Path) -> std::io::Result<File> {
    File::options().read(true).write(true).open(path)
}

#[test]
fn held_by_somebody_else_they_are_named_and_given_up_they_are_taken() -> Outcome {
    let base = tempfile::tempdir()?;
    let dir = base.path();
    let mut target = holder(dir)?;
    let images = dir.join("image");
    target.dump(&images, &["--file-locks"])?;

    // Asleep, it holds none.
    let (flocked, locked) = (open(&dir.join("flocked"))?, open(&dir.join("locked"))?);
    flock(&flocked, FlockOperation::NonBlockingLockShared)?;
    fcntl_lock(&locked, FlockOperation::NonBlockingLockExclusive)?;

    let restore = Icecore::new(dir, "restore")
        .arg("-D")
        .arg(&images)
        .arg("-d");
    let refused = restore.run()?.expect_failure("2 things in the way")?;
    let said = refused.describe("");
    let own = std::process::id();
    for text in [
        format!("/flocked: process {own} holds a lock"),
        "does not go with: flock, exclusive".to_owned(),
        format!("/locked: process {own} holds a lock"),
        "does not go with: POSIX, exclusive, byte 3 to the end".to_owned(),
    ] {
        assert!(said.contains(&text), "{text}\n{said}");
    }
    assert!(!Path::new(&format!("/proc/{}", target.pid())).exists());

    drop((flocked, locked));
    target.restore(&images, &["-l"])?;
    target.alive()?;
    let (flocked, locked) = (open(&dir.join("flocked"))?, open(&dir.join("locked"))?);
    assert!(flock(&flocked, FlockOperation::NonBlockingLockShared).is_err());
    assert!(fcntl_lock(&locked, FlockOperation::NonBlockingLockExclusive).is_err());
    Ok(())
}
