//! Restores that fail, are killed, or may not write: nothing is left, and
//! nothing else is touched.

use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::common::icecore::{Icecore, program};
use crate::common::target::Target;
use crate::common::wait;
use crate::place::{Version, Yard, alone, enter, read, write};
use crate::{Result, scratch};

const PIDS: Version = Version::V1("pids");

/// An image of a task in `yard/job`.
fn image(yard: &Yard, scratch: &Path) -> Result<(Target, PathBuf)> {
    let job = yard.make("job")?;
    write(&job.join("pids.max"), "77")?;
    let mut target = Target::sleeper()?;
    enter(&job, target.pid())?;
    let images = scratch.join("image");
    target.dump(&images, &["--manage-cgroups"])?;
    Ok((target, images))
}

fn restore(images: &Path, args: &[&str]) -> Icecore {
    let scratch = images.parent().unwrap_or(images);
    let command = Icecore::new(scratch, "restore")
        .arg("-d")
        .arg("-D")
        .arg(images);
    command.args(args)
}

#[test]
fn a_failed_restore_removes_the_cgroups_it_made_and_only_those() -> Result {
    let _alone = alone()?;
    let (yard, scratch) = (Yard::new(PIDS, "failed")?, scratch()?);
    let (mut target, images) = image(&yard, scratch.path())?;
    let neighbour = yard.make("elsewhere")?;
    let root = "--cgroup-root=pids:/icecore-test-failed/elsewhere/deep/job";
    let mut failures = 0;
    for at in (1..).step_by(4) {
        let fault = format!("restore:{at}");
        let failed = restore(&images, &["--manage-cgroups", root]).env("ICECORE_FAULT", &fault);
        let failed = failed.run()?;
        if failed.status.success() {
            break; // it takes fewer steps than that
        }
        failures += 1;
        failed.expect_failure("restore")?;
        target.reap_killed()?;
        assert!(neighbour.is_dir(), "{fault}: what was there before is gone");
        assert!(
            !neighbour.join("deep").exists(),
            "{fault}: a cgroup is left"
        );
    }
    assert!(failures > 3, "it failed {failures} times only");
    target.restored()?;
    target.signal(Signal::KILL)?;
    target.wait()?;
    // What existed and was set is what it was.
    write(&yard.dir.join("job/pids.max"), "99")?;
    let failed = restore(&images, &["--manage-cgroups=full"]).env("ICECORE_FAULT", "restore:9");
    failed.run()?.expect_failure("restore")?;
    target.reap_killed()?;
    assert_eq!(read(&yard.dir.join("job/pids.max"))?, "99");
    Ok(())
}

#[test]
fn a_killed_restore_leaves_no_cgroups() -> Result {
    let _alone = alone()?;
    let (yard, scratch) = (Yard::new(PIDS, "killed")?, scratch()?);
    let (mut target, images) = image(&yard, scratch.path())?;
    let root = "--cgroup-root=pids:/icecore-test-killed/deep/job";
    for at in [3, 20, 60] {
        let fault = format!("ptrace:{at}");
        let killed = restore(&images, &["--manage-cgroups", root]).env("ICECORE_FAULT", &fault);
        assert!(!killed.run()?.status.success());
        wait::until("the guardian to remove its cgroups", wait::LIMIT, || {
            Ok((!yard.dir.join("deep").exists()).then_some(()))
        })?;
        wait::until("the task to be gone", wait::LIMIT, || {
            Ok(target.reap_killed().ok())
        })?;
    }
    Ok(())
}

#[test]
fn all_that_is_lacking_is_listed_at_once() -> Result {
    let _alone = alone()?;
    let (yard, scratch) = (Yard::new(PIDS, "lacking")?, scratch()?);
    let cpus = Yard::new(Version::V1("cpuset"), "lacking")?;
    let (mut target, images) = {
        let job = cpus.make("job")?;
        let job2 = yard.make("job")?;
        let mut target = Target::sleeper()?;
        enter(&job, target.pid())?;
        enter(&job2, target.pid())?;
        let images = scratch.path().join("image");
        target.dump(&images, &["--manage-cgroups"])?;
        (target, images)
    };
    crate::place::remove_all(&yard.dir.join("job"));
    crate::place::remove_all(&cpus.dir.join("job"));
    let refused = restore(&images, &["--manage-cgroups=none"]).run()?;
    let refused = refused.expect_failure("2 things in the way")?;
    for name in [
        "pids:/icecore-test-lacking/job",
        "cpuset:/icecore-test-lacking/job",
    ] {
        assert!(refused.stderr.contains(name), "{}", refused.stderr);
    }
    assert!(
        refused.stderr.contains("--manage-cgroups=soft"),
        "{}",
        refused.stderr
    );
    // A cpuset has processors before anyone enters it.
    target.restore(&images, &["--manage-cgroups=soft"])?;
    let list = read(&cpus.dir.join("job/cpuset.cpus"))?;
    assert_eq!(list, read(&cpus.dir.join("cpuset.cpus"))?);
    assert!(Version::V1("cpuset").of(target.pid())?.ends_with("/job"));
    target.signal(Signal::KILL)?;
    target.wait().map(drop)
}

/// `icecore restore` where no cgroup can be written: each mount of a hierarchy
/// is read-only in a mount namespace of its own.
fn without_write_access(images: &Path, mode: &[&str]) -> Result<std::process::Output> {
    let script = "for m in $(awk '$3 ~ /^cgroup/ { print $2 }' /proc/mounts); do \
        mount -o remount,bind,ro $m; done; exec \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command.args([
        "-m",
        "sh",
        "-c",
        script,
        "sh",
        program(),
        "restore",
        "--no-default-config",
    ]);
    command.args(["-d", "-D"]).arg(images).args(mode);
    command.stdin(std::process::Stdio::null());
    command.output().map_err(|e| e.to_string())
}

#[test]
fn without_write_access_ignore_still_works() -> Result {
    let _alone = alone()?;
    let (yard, scratch) = (Yard::new(PIDS, "readonly")?, scratch()?);
    let (mut target, images) = image(&yard, scratch.path())?;
    for mode in [&["--manage-cgroups=ignore"][..], &[]] {
        let done = without_write_access(&images, mode)?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{mode:?}: {said}");
        assert_eq!(
            said.contains("stay in icecore's own"),
            mode.is_empty(),
            "{said}"
        );
        target.restored()?;
        assert_eq!(read(&yard.dir.join("job/cgroup.procs"))?, "");
        target.signal(Signal::KILL)?;
        target.wait()?;
    }
    let refused = without_write_access(&images, &["--manage-cgroups=none"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("cannot be entered") && said.contains("=ignore"),
        "{said}"
    );
    Ok(())
}

#[test]
fn what_is_recorded_can_be_chosen() -> Result {
    let _alone = alone()?;
    let (yard, scratch) = (Yard::new(PIDS, "chosen")?, scratch()?);
    let job = yard.make("job")?;
    let mut target = Target::sleeper()?;
    enter(&job, target.pid())?;
    let mut recorded = |name: &str, args: &[&str]| {
        let images = scratch.path().join(name);
        target.dump_running(&images, args)?;
        let image = icecore::images::Image::open(&images).map_err(|e| e.to_string())?;
        let all = image.checkpoint.cgroups.hierarchies.into_iter();
        let shown = all.map(|h| {
            let cgroups = h.cgroups.iter().map(|c| {
                let names = c.properties.iter().map(|p| p.name.as_str());
                format!("{} {}", c.path, names.collect::<Vec<_>>().join(" "))
            });
            (h.controllers.join(","), cgroups.collect::<Vec<_>>())
        });
        Ok::<_, String>(shown.collect::<Vec<_>>())
    };
    let only = "--cgroup-dump-controller=pids";
    let spec = "--cgroup-props=\"pids\": - \"strategy\": \"replace\" - \"properties\": []";
    let file = scratch.path().join("spec");
    std::fs::write(
        &file,
        "pids:\n - strategy: merge\n - properties: [pids.current]\n",
    )
    .map_err(|e| e.to_string())?;
    let from_file = format!("--cgroup-props-file={}", file.display());
    let parent = yard.dir.parent().ok_or("no parent")?;
    let roots = parent.parent().ok_or("no parent")?;
    let in_yard = format!("--cgroup-yard={}", roots.display());
    let usual = "cgroup.clone_children notify_on_release";
    let job = "/icecore-test-chosen/job";
    let cases: [(&str, Vec<&str>, Vec<String>); 4] = [
        (
            "usual",
            vec![only, &in_yard],
            vec![format!("{job} {usual} pids.max")],
        ),
        ("none", vec![only, spec], vec![format!("{job} {usual}")]),
        (
            "more",
            vec![only, &from_file],
            vec![format!("{job} {usual} pids.current pids.max")],
        ),
        (
            "root",
            vec![only, "--cgroup-root=pids:/icecore-test-chosen"],
            vec![
                format!("/icecore-test-chosen {usual} pids.max"),
                format!("{job} {usual} pids.max"),
            ],
        ),
    ];
    for (name, args, expected) in cases {
        assert_eq!(
            recorded(name, &args)?,
            [("pids".to_owned(), expected)],
            "{name}"
        );
    }
    let images = scratch.path().join("wrong");
    let wrong = target
        .dump_command(&images)
        .args(["-R", only, "--cgroup-root=/elsewhere"]);
    wrong
        .run()?
        .expect_failure("give a --cgroup-root above all tasks")?;
    Ok(())
}
