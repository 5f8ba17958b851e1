//! System V shared memory beyond what tasks themselves see of it: what is left of
//! a restore that fails, segments that others have, that are still
//! there, or in whose place there is another.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::icecore::Icecore;
use common::perl::{end, perl, settled};
use common::target::Target;
use common::wait;
use rustix::process::{Pid, WaitOptions, waitpid};
use tempfile::TempDir;

type Result<T = ()> = std::result::Result<T, String>;

/// The number of the next segment is the whole machine's, and children are this
/// process's.
static ALONE: Mutex<()> = Mutex::new(());

/// A segment under a key of its own, and the program that has it attached.
struct Scene {
    dir: TempDir,
    key: u32,
    id: u32,
    target: Target,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    fn new(number: u32) -> Result<Self> {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let key = 0x1000_0000 | std::process::id() << 4 | number;
        let target = attaching(key, "$shm->write('hello', 5000, 5)")?;
        Ok(Self {
            dir: TempDir::with_prefix("icecore-shm-").map_err(|e| e.to_string())?,
            key,
            id: by_key(key).ok_or("no segment")?,
            target,
            _alone: alone,
        })
    }

    fn images(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn dump(&mut self) -> Result {
        let images = self.images();
        self.target.dump(&images, &[]).map(drop)
    }

    fn restore(&self) -> Icecore {
        let restore = Icecore::new(self.dir.path(), "restore");
        restore.arg("-d").arg("-D").arg(self.images())
    }

    fn remove(&self) -> Result {
        script(&format!("shmctl({}, 0, 0)", self.id)).map(drop)
    }

    /// The restored program, with its segment, is ended.
    fn end_restored(&self) -> Result {
        settled(self.target.pid())?;
        end(self.target.pid());
        reap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Whatever has become of it.
        if let Some(id) = by_key(self.key) {
            let _ = script(&format!("shmctl({id}, 0, 0)"));
        }
    }
}

/// A program that has the segment with this key attached, made if need be, and
/// done something with it.
fn attaching(key: u32, work: &str) -> Result<Target> {
    let target = perl(&format!(
        "use IPC::SharedMem; my $new = 01600; my $shm = IPC::SharedMem->new({key}, 9000, $new); \
         $shm->attach or die; {work}; sleep 1000 while 1"
    ))?;
    wait::until("the segment to be attached", wait::LIMIT, || {
        let call = fs::read_to_string(format!("/proc/{}/syscall", target.pid()));
        let asleep = format!("{} ", libc::SYS_clock_nanosleep);
        let call = call.map_err(|e| e.to_string())?;
        Ok(call.starts_with(&asleep).then_some(()))
    })?;
    Ok(target)
}

/// What a line of perl says.
fn script(line: &str) -> Result<String> {
    let mut perl = Command::new("perl");
    let done = perl.args(["-e", line]).output();
    let done = done.map_err(|e| e.to_string())?;
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => Err(format!("{line}: {done:?}")),
    }
}

fn said(id: u32) -> Result<String> {
    script(&format!(
        "shmread({id}, $said, 5000, 5) or die; print $said"
    ))
}

/// Fields of the segments there are: key, number, ….
fn segments() -> Vec<Vec<String>> {
    let text = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let lines = text.lines().skip(1);
    lines
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect()
}

fn by_key(key: u32) -> Option<u32> {
    let (key, all) = (key.to_string(), segments());
    all.iter().find(|s| s[0] == key)?[1].parse().ok()
}

fn next_number() -> Result<String> {
    let number = fs::read_to_string("/proc/sys/kernel/shm_next_id");
    Ok(number.map_err(|e| e.to_string())?.trim().to_owned())
}

/// Takes what restores have left to this process, which adopts orphans.
fn reap() -> Result {
    while let Ok(Some(_)) = waitpid(None::<Pid>, WaitOptions::NOHANG) {}
    Ok(())
}

#[test]
fn a_failed_restore_leaves_no_segment() -> Result {
    let mut scene = Scene::new(1)?;
    scene.dump()?;
    scene.remove()?;
    for step in (1..10_000).step_by(5) {
        let fault = format!("restore:{step}");
        let done = scene.restore().env("ICECORE_FAULT", &fault).run()?;
        if done.decided(&fault)? {
            break;
        }
        let left = by_key(scene.key);
        assert!(left.is_none(), "{}", done.describe("left a segment"));
        assert_eq!(next_number()?, "-1", "{}", done.describe("left its number"));
        reap()?;
    }
    assert_eq!(by_key(scene.key), Some(scene.id));
    assert_eq!(said(scene.id)?, "hello");
    scene.end_restored()
}

#[test]
fn a_segment_that_others_have_is_refused() -> Result {
    let mut scene = Scene::new(3)?;
    let other = attaching(scene.key, "")?;
    let images = scene.images();
    let dump = Icecore::new(scene.dir.path(), "dump");
    let pid = scene.target.pid().to_string();
    let done = dump.arg("-t").arg(pid).arg("-D").arg(&images).run()?;
    done.expect_failure("is attached 1 times outside the dump")?;
    drop(other);
    scene.dump()
}

#[test]
fn a_segment_that_is_still_there_is_taken_up() -> Result {
    let mut scene = Scene::new(4)?;
    scene.dump()?;
    let id = scene.id;
    script(&format!("shmwrite({id}, 'other', 5000, 5) or die"))?;
    script(&format!("shmwrite({id}, 'more', 0, 4) or die"))?;

    let other = attaching(scene.key, "")?;
    scene.restore().run()?.expect_failure("is in use")?;
    assert_eq!(said(id)?, "other");
    drop(other);

    scene.restore().arg("--dry-run").succeed()?;
    assert_eq!(said(id)?, "other");
    scene.restore().succeed()?;
    assert_eq!(said(id)?, "hello");
    let start = script(&format!("shmread({id}, $said, 0, 4) or die; print $said"))?;
    assert_eq!(start, "\0\0\0\0");
    scene.end_restored()
}

#[test]
fn another_segment_in_its_place_is_an_obstacle() -> Result {
    let mut scene = Scene::new(5)?;
    scene.dump()?;
    scene.remove()?;
    script(&format!("shmget({}, 100, 01600) or die", scene.key))?;
    let done = scene.restore().run()?;
    done.expect_failure("another segment has the key")?;
    Ok(())
}
