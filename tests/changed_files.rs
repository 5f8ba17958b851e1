//! Files that have changed between a dump and its restore: every one is named,
//! all at once, and what is put back is accepted.

mod common;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::icecore::Icecore;
use common::target::Target;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

type Outcome = Result<(), Box<dyn Error>>;

/// Holds files of `dir`: three to read, one to append to.
fn holder(dir: &Path) -> Result<Target, Box<dyn Error>> {
    for name in ["gone", "longer", "touched", "log"] {
        fs::write(dir.join(name), "contents\n")?;
    }
    let script = "exec 3<gone 4<longer 5<touched 6>>log; \
                  exec setsid sleep 60";
    let mut command = Command::new("bash");
    let null = || Stdio::null();
    command.args(["-c", script]).current_dir(dir);
    command.stdin(null()).stdout(null()).stderr(null());
    let target = Target::spawn(&mut command)?;
    let program = format!("/proc/{}/comm", target.pid());
    common::wait::until("the program", common::wait::LIMIT, || {
        let comm = fs::read_to_string(&program).unwrap_or_default();
        Ok((comm == "sleep\n").then_some(()))
    })?;
    Ok(target)
}

fn touch(path: &Path, seconds: i64) -> Outcome {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 5,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(utimensat(CWD, path, &times, AtFlags::empty())?)
}

#[test]
fn every_change_is_named_and_what_is_put_back_is_accepted() -> Outcome {
    let base = tempfile::tempdir()?;
    let dir = base.path();
    let mut target = holder(dir)?;
    touch(&dir.join("touched"), 1_000_000)?;
    let images = dir.join("image");
    target.dump(&images, &[])?;

    let file = |name: &str| dir.join(name);
    fs::rename(file("gone"), file("away"))?;
    fs::write(file("longer"), "contents, and more\n")?;
    touch(&file("touched"), 2_000_000)?;
    // What is only appended to may have grown.
    fs::write(file("log"), "contents\nof others\n")?;

    let restore = || {
        Icecore::new(dir, "restore")
            .arg("-D")
            .arg(&images)
            .arg("-d")
    };
    let refused = restore().run()?.expect_failure("3 things in the way")?;
    let said = refused.describe("");
    for text in [
        "/gone: cannot be found",
        "/longer: has 19 bytes now and had 9",
        "/touched: was modified since the dump (modification time @2000000.000000005, \
         was @1000000.000000005)",
        "truncate -s 9 ",
        "the same: touch -d @1000000.000000005 /",
    ] {
        assert!(said.contains(text), "{text}\n{said}");
    }

    fs::rename(file("away"), file("gone"))?;
    touch(&file("touched"), 1_000_000)?;
    restore().run()?.expect_failure("one thing in the way")?;
    fs::write(file("longer"), "contents\n")?;
    restore().run()?.expect_failure("/longer: was modified")?;

    // A log that was cut short is not what the task has written to.
    fs::write(file("log"), "")?;
    restore()
        .run()?
        .expect_failure("/log: has 0 bytes now and had 9")?;
    Ok(())
}

#[test]
fn a_log_that_has_grown_is_written_on() -> Outcome {
    let base = tempfile::tempdir()?;
    let dir = base.path();
    let mut target = holder(dir)?;
    let images = dir.join("image");
    target.dump(&images, &[])?;
    fs::write(dir.join("log"), "contents\nof others\n")?;
    target.restore(&images, &[])?;
    let shown = fs::read_link(format!("/proc/{}/fd/6", target.pid()))?;
    assert_eq!(shown, dir.join("log"));
    target.alive()?;
    Ok(())
}
