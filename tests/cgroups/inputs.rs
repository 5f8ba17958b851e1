//! Explicit `ignore`, explicit `soft`, given without a value, not given: four
//! different inputs, from the command line and from the library, into the
//! image.

use std::path::Path;

use icecore::images::Image;
use icecore::images::cgroup::{CgroupMode, CgroupRecords};

use crate::common::target::Target;
use crate::{Result, scratch};

fn in_image(dir: &Path) -> Result<(CgroupMode, CgroupRecords)> {
    let image = Image::open(dir).map_err(|e| e.to_string())?;
    let state = &image.checkpoint.cgroups;
    Ok((state.mode, state.records))
}

#[test]
fn the_command_line_writes_what_was_given_into_the_image() -> Result {
    let scratch = scratch()?;
    let mut target = Target::sleeper()?;
    for (at, (args, expected)) in [
        (&[][..], (CgroupMode::NotGiven, CgroupRecords::All)),
        (
            &["--manage-cgroups"],
            (CgroupMode::Soft, CgroupRecords::All),
        ),
        (
            &["--manage-cgroups=soft"],
            (CgroupMode::Soft, CgroupRecords::All),
        ),
        (
            &["--manage-cgroups=ignore"],
            (CgroupMode::Ignore, CgroupRecords::Nothing),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let images = scratch.path().join(at.to_string());
        target.dump_running(&images, args)?;
        assert_eq!(in_image(&images)?, expected, "{args:?}");
    }
    Ok(())
}

#[test]
fn the_library_writes_what_was_given_into_the_image() -> Result {
    let scratch = scratch()?;
    let target = Target::sleeper()?;
    for (at, (mode, expected)) in [
        (None, (CgroupMode::NotGiven, CgroupRecords::All)),
        (
            Some(CgroupMode::Ignore),
            (CgroupMode::Ignore, CgroupRecords::Nothing),
        ),
        (
            Some(CgroupMode::Soft),
            (CgroupMode::Soft, CgroupRecords::All),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let images = scratch.path().join(at.to_string());
        let dump = icecore::Dump::new(target.pid(), &images).leave_running(true);
        let dump = match mode {
            Some(mode) => dump.manage_cgroups(mode),
            None => dump,
        };
        dump.run().map_err(|e| format!("{mode:?}: {e}"))?;
        assert_eq!(in_image(&images)?, expected, "{mode:?}");
    }
    Ok(())
}
