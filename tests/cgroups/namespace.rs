//! A task in a cgroup namespace of its own.

use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::common::target::Target;
use crate::common::wait;
use crate::place::{Version, Yard, alone};
use crate::{Result, scratch};

/// What the task sees as its own cgroup.
fn inside(pid: u32) -> Result<String> {
    let nsenter = Command::new("nsenter")
        .args([
            "-t",
            &pid.to_string(),
            "-C",
            "cat",
            &format!("/proc/{pid}/cgroup"),
        ])
        .output();
    let output = nsenter.map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains(":pids:"));
    line.map(str::to_owned).ok_or(text)
}

fn namespace(pid: u32) -> Result<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/cgroup")).map_err(|e| e.to_string())
}

#[test]
fn a_cgroup_namespace_is_made_again_around_its_task() -> Result {
    let _alone = alone()?;
    let yard = Yard::new(Version::V1("pids"), "namespace")?;
    let (job, inner) = (yard.make("job")?, yard.make("job/inner")?);
    let script = format!(
        "echo $$ > {}/cgroup.procs; exec unshare -C sh -c 'echo $$ > {}/cgroup.procs; \
         exec setsid sleep 1000'",
        job.display(),
        inner.display()
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir("/");
    shell
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut target = Target::spawn(&mut shell)?;
    let pid = target.pid();
    wait::until("sleep to run", wait::LIMIT, || {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        Ok((comm.is_ok_and(|comm| comm == "sleep\n")).then_some(()))
    })?;
    let before = inside(pid)?;
    assert!(before.ends_with(":/inner"), "{before}");
    let scratch = scratch()?;
    let images = scratch.path().join("image");
    target.dump(&images, &["--manage-cgroups=soft"])?;
    crate::place::remove_all(&job);

    let root = "--cgroup-root=pids:/icecore-test-namespace/elsewhere";
    target.restore(&images, &["--manage-cgroups=soft", root])?;
    let place = Version::V1("pids").of(pid)?;
    assert_eq!(place, "/icecore-test-namespace/elsewhere/inner");
    assert_eq!(inside(pid)?, before);
    assert_ne!(namespace(pid)?, namespace(std::process::id())?);
    target.signal(Signal::KILL)?;
    target.wait()?;

    let done = target.restore(&images, &[])?;
    assert!(
        done.stderr.contains("cgroup namespaces of their own"),
        "{}",
        done.stderr
    );
    assert_eq!(namespace(pid)?, namespace(std::process::id())?);
    target.signal(Signal::KILL)?;
    target.wait().map(drop)
}
