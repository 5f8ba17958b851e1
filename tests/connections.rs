//! Connections to the outside when something goes wrong with their keeper, and
//! descriptors given by whoever restores.
#![allow(dead_code)] // the common harness is larger than what is needed here

mod common;

use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::icecore::{Finished, Icecore, program};
use common::target::Target;
use common::wait;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

type Result<T = ()> = std::result::Result<T, String>;

/// A program that answers each line on its standard input with the line twice,
/// and our end of that.
struct Scene {
    target: Target,
    peer: UnixStream,
    dir: TempDir,
}

const ECHO: &str = "
import os, sys
while True:
    line = os.read(0, 100)
    if not line: break
    os.write(0, line + line)
open(sys.argv[1], 'w').close()
while True: __import__('time').sleep(1000)
";

fn text<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String + '_ {
    move |e| format!("{what}: {e}")
}

impl Scene {
    fn open() -> Result<Self> {
        let dir = TempDir::with_prefix("icecore-connections-").map_err(text("directory"))?;
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).map_err(text("chmod"))?;
        let (peer, theirs) = UnixStream::pair().map_err(text("pair"))?;
        peer.set_read_timeout(Some(wait::LIMIT))
            .map_err(text("time-out"))?;
        let mut command = Command::new("/usr/bin/env");
        command.args(["setsid", "python3", "-c", ECHO]);
        command.arg(dir.path().join("end-of-file"));
        command
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        let target = Target::spawn(&mut command)?;
        drop(command);
        let mut scene = Self { target, peer, dir };
        scene.talks()?;
        Ok(scene)
    }

    fn images(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn talks(&mut self) -> Result {
        use std::io::{Read, Write};
        self.peer.write_all(b"line\n").map_err(text("write"))?;
        let mut answer = [0; 10];
        self.peer.read_exact(&mut answer).map_err(text("read"))?;
        match &answer == b"line\nline\n" {
            true => Ok(()),
            false => Err(format!("answered {answer:?}")),
        }
    }

    /// Our end sees the other one closed, and nothing before.
    fn is_closed(&mut self) -> Result {
        use std::io::Read;
        match self.peer.read(&mut [0; 10]) {
            Ok(0) => Ok(()),
            other => Err(format!("not closed: {other:?}")),
        }
    }

    fn dump(&mut self, images: &Path) -> Result<Finished> {
        self.target.dump(images, &["--outside", "keep"])
    }

    fn keeper(&self, what: &str, images: &Path) -> Result<Finished> {
        Icecore::new(self.dir.path(), "keeper")
            .arg(what)
            .arg(images)
            .run()
    }

    fn keeper_pid(&self, images: &Path) -> Result<Pid> {
        let listed = self.keeper("list", images)?.expect_success()?;
        let line = listed.stdout.lines().next().unwrap_or_default();
        let number = line
            .strip_prefix("keeper pid ")
            .and_then(|l| l.split(',').next());
        let number = number.and_then(|n| n.parse().ok()).and_then(Pid::from_raw);
        number.ok_or_else(|| listed.describe("should have told the pid"))
    }

    fn restore(&self, images: &Path) -> Icecore {
        Icecore::new(self.dir.path(), "restore")
            .args(["-d", "-D"])
            .arg(images)
    }
}

fn ended(pid: Pid) -> Result {
    wait::until("the keeper to end", wait::LIMIT, || {
        let gone = rustix::process::test_kill_process(pid) == Err(Errno::SRCH);
        // Nobody may reap it here but us.
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
        Ok(gone.then_some(()))
    })
}

#[test]
fn a_connection_survives_many_sleeps_in_a_row() -> Result {
    let mut scene = Scene::open()?;
    for round in 0..8 {
        let images = scene.images(&format!("image-{round}"));
        scene.dump(&images)?;
        let keeper = scene.keeper_pid(&images)?;
        scene.target.restore(&images, &[])?;
        scene.talks()?;
        ended(keeper)?;
        assert!(!images.join("keeper.sock").exists(), "its socket is left");
    }
    Ok(())
}

#[test]
fn nothing_leaks_into_a_keeper() -> Result {
    let mut scene = Scene::open()?;
    let images = scene.images("image");
    scene.dump(&images)?;
    let pid = scene.keeper_pid(&images)?.as_raw_pid();
    let shown = fs::read_dir(format!("/proc/{pid}/fd")).map_err(text("its descriptors"))?;
    let links = shown.filter_map(|e| fs::read_link(e.ok()?.path()).ok());
    let links: Vec<String> = links.map(|l| l.display().to_string()).collect();
    // What is kept, its socket, the ends of talks; a pidfd; the directory, and
    // what tells of files removed from it.
    let own = ["socket:[", "anon_inode:[pidfd]", "anon_inode:inotify"];
    let other = |l: &&String| !own.iter().any(|own| l.starts_with(own));
    let others: Vec<&String> = links.iter().filter(other).collect();
    assert_eq!(others, [&images.display().to_string()], "{links:?}");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(text("status"))?;
    assert!(status.contains("Name:\ticecore-keeper"), "{status}");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(text("stat"))?;
    let after = stat.rsplit(") ").next().unwrap_or_default();
    let fields: Vec<&str> = after.split(' ').collect();
    assert_eq!(fields[3], pid.to_string(), "a session of its own: {stat}");
    let socket = fs::metadata(images.join("keeper.sock")).map_err(text("its socket"))?;
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).map_err(text("score"))?;
    assert_ne!(score.trim(), "1000");
    scene.keeper("release", &images)?.expect_success().map(drop)
}

#[test]
fn what_is_released_is_closed() -> Result {
    let mut scene = Scene::open()?;
    let images = scene.images("image");
    scene.dump(&images)?;
    let listed = scene.keeper("list", &images)?.expect_success()?;
    assert!(
        listed.stdout.contains("fd 0: unix stream socket"),
        "{}",
        listed.stdout
    );
    scene.keeper("release", &images)?.expect_success()?;
    scene.is_closed()?;
    scene
        .keeper("release", &images)?
        .expect_failure("is gone")?;
    let refused = scene.restore(&images).run()?.expect_failure("is gone")?;
    assert!(
        refused.stderr.contains("fd 0: socket:["),
        "{}",
        refused.stderr
    );
    // Asked for now, it comes back closed, which the program takes for the end.
    scene.target.restore(&images, &["--outside", "close"])?;
    let end = scene.images("end-of-file");
    wait::until("the end of file", wait::LIMIT, || {
        Ok(end.exists().then_some(()))
    })
}

#[test]
fn a_keeper_ends_with_its_image() -> Result {
    let mut scene = Scene::open()?;
    let images = scene.images("image");
    scene.dump(&images)?;
    let keeper = scene.keeper_pid(&images)?;
    fs::remove_file(images.join("stats.json")).map_err(text("remove"))?;
    assert_eq!(scene.keeper_pid(&images)?, keeper);
    fs::remove_dir_all(&images).map_err(text("remove"))?;
    ended(keeper)?;
    scene.is_closed()
}

#[test]
fn a_killed_keeper_is_gone() -> Result {
    let mut scene = Scene::open()?;
    let images = scene.images("image");
    scene.dump(&images)?;
    let keeper = scene.keeper_pid(&images)?;
    kill_process(keeper, Signal::KILL).map_err(text("kill"))?;
    scene.is_closed()?;
    scene
        .restore(&images)
        .arg("--dry-run")
        .run()?
        .expect_failure("is gone")?;
    let restored = scene.target.restore(&images, &["--outside", "auto"])?;
    assert!(
        restored.stderr.contains("comes back closed: the keeper of"),
        "{}",
        restored.stderr
    );
    Ok(())
}

#[test]
fn what_was_taken_goes_back_if_the_restore_fails() -> Result {
    let mut scene = Scene::open()?;
    let images = scene.images("image");
    scene.dump(&images)?;
    let keeper = scene.keeper_pid(&images)?;
    let script = scene.images("fail");
    fs::write(
        &script,
        "#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" != pre-resume ]\n",
    )
    .and_then(|()| fs::set_permissions(&script, Permissions::from_mode(0o755)))
    .map_err(text("script"))?;
    for _ in 0..2 {
        let failing = scene.restore(&images).arg("--action-script").arg(&script);
        failing.run()?.expect_failure("pre-resume")?;
        scene.target.reap_killed()?;
        assert_eq!(scene.keeper_pid(&images)?, keeper);
    }
    scene.target.restore(&images, &[])?;
    scene.talks()?;
    ended(keeper)
}

#[test]
fn a_keeper_is_used_once() -> Result {
    let mut scene = Scene::open()?;
    let images = scene.images("image");
    scene.dump(&images)?;
    scene.target.restore(&images, &[])?;
    scene
        .restore(&images)
        .args(["--pids", "ns"])
        .run()?
        .expect_failure("is gone")?;
    scene.talks()
}

#[test]
fn a_moved_image_still_has_its_keeper() -> Result {
    let mut scene = Scene::open()?;
    let (images, moved) = (scene.images("image"), scene.images("elsewhere"));
    scene.dump(&images)?;
    fs::rename(&images, &moved).map_err(text("move"))?;
    scene.target.restore(&moved, &[])?;
    scene.talks()?;
    assert!(!moved.join("keeper.sock").exists(), "its socket is left");
    Ok(())
}

#[test]
fn strangers_are_turned_away() -> Result {
    let mut scene = Scene::open()?;
    let images = scene.images("image");
    scene.dump(&images)?;
    // A copy of the program where anyone may run it, and an image that anyone
    // may read: what the keeper itself says is what is tested.
    let icecore = scene.images("icecore");
    fs::copy(program(), &icecore).map_err(text("copy"))?;
    for path in [images.clone(), images.join("keeper.sock"), icecore.clone()] {
        fs::set_permissions(path, Permissions::from_mode(0o777)).map_err(text("chmod"))?;
    }
    for file in ["manifest", "objects", "pages-0"] {
        let all = Permissions::from_mode(0o666);
        fs::set_permissions(images.join(file), all).map_err(text("chmod"))?;
    }
    for what in ["list", "release"] {
        let mut stranger = Command::new("setpriv");
        stranger.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        let said = stranger
            .arg(&icecore)
            .args(["keeper", what])
            .arg(&images)
            .output();
        let said = said.map_err(text("setpriv"))?;
        let stderr = String::from_utf8_lossy(&said.stderr);
        assert!(
            !said.status.success() && stderr.contains("belongs to another user"),
            "{stderr}"
        );
    }
    scene.target.restore(&images, &[])?;
    scene.talks()
}

#[test]
fn a_keeper_waits_no_longer_than_it_is_told() -> Result {
    let mut scene = Scene::open()?;
    let images = scene.images("image");
    scene
        .target
        .dump(&images, &["--outside", "keep", "--keep-for", "1s"])?;
    scene.is_closed()?;
    scene
        .restore(&images)
        .run()?
        .expect_failure("is gone")
        .map(drop)
}

#[test]
fn a_dump_that_fails_lets_everything_go() -> Result {
    let mut scene = Scene::open()?;
    let images = scene.images("image");
    let script = scene.images("fail");
    fs::write(
        &script,
        "#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" != post-dump ]\n",
    )
    .and_then(|()| fs::set_permissions(&script, Permissions::from_mode(0o755)))
    .map_err(text("script"))?;
    let dump = scene
        .target
        .dump_command(&images)
        .args(["--outside", "keep"]);
    dump.arg("--action-script")
        .arg(&script)
        .run()?
        .expect_failure("post-dump")?;
    assert!(!images.join("keeper.sock").exists(), "its socket is left");
    scene.talks()?;
    // Nobody else holds the connection: its end is the end.
    scene.target.signal(Signal::KILL)?;
    scene.is_closed()
}

#[test]
fn a_target_that_goes_on_keeps_its_own() -> Result {
    let mut scene = Scene::open()?;
    let images = scene.images("image");
    let dumped = scene.target.dump_running(&images, &["--outside", "keep"])?;
    assert!(
        dumped.stderr.contains("goes on with its connections"),
        "{}",
        dumped.stderr
    );
    scene.keeper("list", &images)?.expect_failure("is gone")?;
    scene.talks()?;
    scene.target.signal(Signal::KILL)?;
    scene.target.wait()?;
    scene.is_closed()?;
    scene
        .restore(&images)
        .run()?
        .expect_failure("the dump gave it to no keeper")
        .map(drop)
}

#[test]
fn the_caller_may_give_another_connection() -> Result {
    let mut scene = Scene::open()?;
    let images = scene.images("image");
    let link = fs::read_link(format!("/proc/{}/fd/0", scene.target.pid()));
    let key = link.map_err(text("link"))?.display().to_string();
    scene.target.dump(&images, &["--outside", "close"])?;
    let (ours, theirs) = UnixStream::pair().map_err(text("pair"))?;
    ours.set_read_timeout(Some(wait::LIMIT))
        .map_err(text("time-out"))?;
    let mut restore = Command::new(program());
    restore
        .args(["restore", "--no-default-config", "-d", "-D"])
        .arg(&images);
    restore.args(["--inherit-fd", &format!("fd[0]:{key}")]);
    restore.stdin(Stdio::from(OwnedFd::from(theirs)));
    let status = restore.status().map_err(text("restore"))?;
    drop(restore);
    assert!(status.success());
    scene.target.restored()?;
    scene.peer = ours;
    scene.talks()?;
    let unused = scene
        .restore(&images)
        .args(["--inherit-fd", "fd[0]:pipe:[1]"]);
    unused
        .run()?
        .expect_failure("no descriptor of the image is pipe:[1]")
        .map(drop)
}
