//! Damaged images from the command line: one typed error each, no panic.

#[path = "../images/tests/damage/mod.rs"]
mod damage;
#[path = "../images/tests/format/mod.rs"]
mod format;
#[path = "../images/tests/sample/mod.rs"]
mod sample;

mod common;

use std::error::Error;
use std::fs;
use std::path::Path;

use common::icecore::Icecore;

type Outcome = Result<(), Box<dyn Error>>;

/// Images damaged in each test.
const IMAGES: u64 = 200;

const FILES: [&str; 3] = ["manifest", "objects", "pages-0"];

fn copy(from: &Path, to: &Path) -> Outcome {
    for name in FILES {
        fs::copy(from.join(name), to.join(name))?;
    }
    Ok(())
}

#[test]
fn damage_is_one_error_of_every_reader() -> Outcome {
    let base = tempfile::tempdir()?;
    let sound = base.path().join("sound");
    sample::write(&sound);
    let dir = base.path().join("damaged");
    fs::create_dir(&dir)?;
    let mut refused = 0;
    for seed in 0..IMAGES {
        copy(&sound, &dir)?;
        let damage = damage::damage(&dir, seed);
        let what = format!("seed {seed}: {}", damage.what);
        let run = |subcommand: &str, args: &[&str]| {
            let command = Icecore::new(base.path(), subcommand).arg("-D").arg(&dir);
            command.args(args).run()?.decided(&what)
        };
        let shown = run("inspect", &[])?;
        let sound = run("verify", &[])?;
        assert!(shown || !sound, "{what}: verified, but not shown");
        assert!(!sound || damage.mended, "{what}: unnoticed");
        // The sample's own files are not here: there is always an obstacle.
        assert!(!run("restore", &["--dry-run"])?, "{what}: restorable");
        refused += u64::from(!sound);
    }
    assert!(refused > IMAGES / 2, "only {refused} refused");
    Ok(())
}
