//! Files that a sleeping process had mapped and that have changed meanwhile:
//! all of them are named at once, and nothing is restored.

mod common;

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use common::icecore::Icecore;
use common::target::Target;
use common::wait;

type Outcome = Result<(), Box<dyn Error>>;

/// A copy of `sleep` with a copy of its C library, both of which may change.
fn sleeper(dir: &Path) -> Result<Target, Box<dyn Error>> {
    fs::copy("/bin/sleep", dir.join("nap"))?;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut mapped = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5));
    let library = mapped.find(|path| path.ends_with("/libc.so.6"));
    fs::copy(
        library.ok_or("no C library is mapped here")?,
        dir.join("libc.so.6"),
    )?;
    let script = "for fd in /proc/$$/fd/*; do fd=${fd##*/}; \
        [ $fd -gt 2 ] && eval \"exec $fd>&-\"; done; exec setsid \"$0/nap\" 1000";
    let mut command = Command::new("/bin/bash");
    command
        .args(["-c", script])
        .arg(dir)
        .env("LD_LIBRARY_PATH", dir);
    command.stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let target = Target::spawn(&mut command)?;
    let proc = format!("/proc/{}", target.pid());
    wait::until("nap to sleep", wait::LIMIT, || {
        let read = |file: &str| fs::read_to_string(format!("{proc}/{file}")).unwrap_or_default();
        let asleep = read("comm") == "nap\n" && read("syscall").starts_with("230 ");
        Ok(asleep.then_some(()))
    })?;
    Ok(target)
}

#[test]
fn all_changed_files_are_named_at_once() -> Outcome {
    let dir = tempfile::tempdir()?;
    let images = dir.path().join("images");
    let mut target = sleeper(dir.path())?;
    target.dump(&images, &[])?;
    let (program, library) = (dir.path().join("nap"), dir.path().join("libc.so.6"));
    File::options()
        .append(true)
        .open(&program)?
        .write_all(b"longer")?;
    fs::remove_file(&library)?;
    let restore = Icecore::new(dir.path(), "restore").arg("-D").arg(&images);
    let refused = restore.arg("-d").run()?.expect_failure("in the way")?;
    for text in [
        format!("{}", program.display()),
        "bytes now and had".to_owned(),
        format!("{}", library.display()),
        "cannot be found".to_owned(),
    ] {
        assert!(
            refused.stderr.contains(&text),
            "no {text:?}:\n{}",
            refused.stderr
        );
    }
    let areas = refused.stderr.matches(&*library.to_string_lossy()).count();
    assert_eq!(
        areas, 1,
        "named once, not once per area:\n{}",
        refused.stderr
    );
    target.reap_killed()?;
    Ok(())
}
