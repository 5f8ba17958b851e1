//! Targets whose memory cgroup is nearly full. A page too much that is charged
//! to one, and the kernel ends it: a dump needs next to none, and refuses where
//! there is not even that.

use std::path::Path;

use libtest_mimic::{Failed, Trial};

use crate::common::icecore::{Finished, Icecore};
use crate::common::memory_group::MemoryGroup;
use crate::common::wait;
use crate::sweep::nothing_is_left;
use crate::victim::Victim;

const MIB: u64 = 1 << 20;

pub(crate) fn trials() -> impl Iterator<Item = Trial> {
    let all: [(&str, fn() -> Result<(), String>); 5] = [
        ("a_mebibyte_is_enough", a_mebibyte_is_enough),
        ("nothing_left_is_refused", nothing_left_is_refused),
        ("an_image_in_its_memory", an_image_in_its_memory),
        ("an_image_on_disk", an_image_on_disk),
        ("a_restore_without_room", a_restore_without_room),
    ];
    all.into_iter().map(|(name, test)| {
        Trial::test(format!("memory_limit::{name}"), move || {
            test().map_err(Failed::from)
        })
    })
}

/// A victim in a group of its own; it is dropped, and so ended, first.
struct Stage {
    victim: Victim,
    group: MemoryGroup,
    dir: tempfile::TempDir,
}

impl Stage {
    fn set(name: &str) -> Result<Self, String> {
        // Not where /tmp may be: the image belongs on a disk.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|e| e.to_string())?;
        let group = MemoryGroup::new()?;
        let victim = Victim::start_in(name, dir.path(), &group.entrance())?;
        Ok(Self { victim, group, dir })
    }

    fn is_unharmed(&mut self) -> Result<(), String> {
        self.victim.is_unharmed()?;
        match self.group.kills()? {
            0 => Ok(()),
            n => Err(format!("the kernel has ended {n} for want of memory")),
        }
    }

    /// A dump by an icecore that lives in the target's group.
    fn dump_from_within(&self, images: &Path) -> Icecore {
        let pid = self.victim.target.pid().to_string();
        let icecore = Icecore::in_group(self.dir.path(), "dump", &self.group.entrance());
        icecore.args(["-R", "-t", &pid]).arg("-D").arg(images)
    }
}

/// With a mebibyte to spare a target of many megabytes and one of many threads
/// sleep and wake as ever.
fn a_mebibyte_is_enough() -> Result<(), String> {
    for name in ["memory", "threads"] {
        let mut stage = Stage::set(name)?;
        stage.group.leave(MIB)?;
        let images = stage.dir.path().join("image");
        for _ in 0..3 {
            let dump = stage.victim.target.dump_running(&images, &[])?;
            stage.is_unharmed().map_err(|e| dump.describe(&e))?;
            nothing_is_left(&images, false)?;
        }
        let dump = stage.victim.target.dump(&images, &[])?;
        stage.victim.target.restore(&images, &[])?;
        stage.is_unharmed().map_err(|e| dump.describe(&e))?;
    }
    Ok(())
}

/// With not even a page to spare it is refused, whatever thread is visited, and
/// all dumps go through once there is room again.
fn nothing_left_is_refused() -> Result<(), String> {
    for name in ["nanosleep", "threads"] {
        let mut stage = Stage::set(name)?;
        let images = stage.dir.path().join("image");
        let mut refused = 0;
        for _ in 0..5 {
            stage.group.leave_nothing()?;
            let dump = stage.victim.target.dump_command(&images).arg("-R").run()?;
            stage.is_unharmed().map_err(|e| dump.describe(&e))?;
            if dump.status.success() {
                nothing_is_left(&images, false)?;
                continue;
            }
            refused += 1;
            let dump = dump.expect_failure("memory cgroup")?;
            nothing_is_left(&images, true).map_err(|e| dump.describe(&e))?;
        }
        if refused == 0 {
            return Err(format!("{name}: every dump went through"));
        }
        stage.group.leave(MIB)?;
        stage.victim.target.dump_running(&images, &[])?;
        stage.is_unharmed()?;
    }
    Ok(())
}

/// An image on a tmpfs, written by an icecore that is charged to the target's
/// group, would take the memory the target lives in: it is refused before the
/// first byte.
fn an_image_in_its_memory() -> Result<(), String> {
    let memory = tempfile::tempdir_in("/dev/shm").map_err(|e| e.to_string())?;
    let mut stage = Stage::set("big")?;
    stage.group.leave(64 * MIB)?;
    let images = memory.path().join("image");
    let dump = stage.dump_from_within(&images).run()?;
    stage.is_unharmed().map_err(|e| dump.describe(&e))?;
    let dump: Finished = dump.expect_failure("bytes")?;
    nothing_is_left(&images, true).map_err(|e| dump.describe(&e))
}

/// The same on a disk: the kernel makes room by writing it out.
fn an_image_on_disk() -> Result<(), String> {
    let mut stage = Stage::set("big")?;
    stage.group.leave(64 * MIB)?;
    let images = stage.dir.path().join("image");
    let dump = stage.dump_from_within(&images).succeed()?;
    stage.is_unharmed().map_err(|e| dump.describe(&e))?;
    nothing_is_left(&images, false)
}

/// A restore in a group that cannot hold what comes back leaves nothing, whoever
/// the kernel ends for it; with room it brings the target back.
fn a_restore_without_room() -> Result<(), String> {
    let mut stage = Stage::set("big")?;
    let images = stage.dir.path().join("image");
    stage.victim.target.dump(&images, &[])?;
    let group = MemoryGroup::new()?;
    group.leave(64 * MIB)?;
    let restore = Icecore::in_group(stage.dir.path(), "restore", &group.entrance());
    let done = restore.arg("-d").arg("-D").arg(&images).run()?;
    if done.status.success() {
        return Err(done.describe("should have failed"));
    }
    let target = &mut stage.victim.target;
    wait::until("nothing to be left", wait::LIMIT, || {
        Ok(target.reap_killed().is_ok().then_some(()))
    })
    .map_err(|e| done.describe(&e))?;
    stage.victim.target.restore(&images, &[])?;
    stage.is_unharmed()
}
