//! Killing icecore at every point, and looking at its target after each.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Instant;

use crate::common::wait;
use crate::victim::Victim;
use crate::victims;

/// Points between the request that interrupts a thread and the one that puts
/// its call's restart in place: killed there, the thread sees the EINTR that
/// SIGSTOP and SIGCONT would have given it.
const ALLOWED_EINTRS: u64 = 4;

/// Copies of its own that a target may be left with: icecore was killed after
/// they were made and before they could be told from its children. They have
/// ended.
const ALLOWED_REMAINS: usize = 12;

/// Sweeps over all points with the victim `name`, over dumps with these options.
pub(crate) fn run(name: &str, options: &[&str]) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut victim = Victim::start(name, dir.path())?;
    let images = dir.path().join("image");
    let own = children(&victim)?;
    let started = Instant::now();
    let mut points = Vec::new();
    for kind in ["ptrace", "write", "network"] {
        points.push(sweep(&mut victim, &own, &images, kind, options)?);
    }
    let remains = copies(&victim, &own)?.len();
    if remains > ALLOWED_REMAINS {
        return Err(format!("the target has {remains} children"));
    }
    let eintrs = victim.number_at(8)?;
    if eintrs > ALLOWED_EINTRS {
        return Err(format!("{eintrs} EINTR where {ALLOWED_EINTRS} are allowed"));
    }
    println!(
        "kill sweep {name} {options:?}: {} ptrace points, {} write points, {} network points, 0 losses, {} EINTR, {:.1} s",
        points[0],
        points[1],
        points[2],
        eintrs,
        started.elapsed().as_secs_f32(),
    );
    Ok(())
}

/// Kills icecore at each point of a kind until it lives; gives their number.
fn sweep(
    victim: &mut Victim,
    own: &[u32],
    images: &Path,
    kind: &str,
    options: &[&str],
) -> Result<u32, String> {
    for point in (1..).step_by(victims::stride(victim.name())) {
        let fault = format!("{kind}:{point}");
        let dump = victim
            .target
            .dump_command(images)
            .arg("-R")
            .args(options)
            .env("ICECORE_FAULT", &fault)
            .run()?;
        let context = |e: String| dump.describe(&format!("{fault}: {e}"));
        victim.is_unharmed().map_err(context)?;
        copies_have_ended(victim, own).map_err(context)?;
        let killed = dump.status.signal() == Some(libc::SIGKILL);
        nothing_is_left(images, killed).map_err(context)?;
        if !killed {
            dump.expect_success()?;
            return Ok(point - 1);
        }
    }
    Err("there is no end of points".to_owned())
}

/// No copy of the victim lives on.
fn copies_have_ended(victim: &Victim, own: &[u32]) -> Result<(), String> {
    wait::until("copies of the target to end", wait::LIMIT, || {
        let living = copies(victim, own)?.into_iter().find(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat.rsplit(") ").next().and_then(|s| s.chars().next());
            !matches!(state, None | Some('Z' | 'X'))
        });
        Ok(living.is_none().then_some(()))
    })
}

/// Copies of the victim: victims of the sweep make no children but those they
/// begin with, `own`.
fn copies(victim: &Victim, own: &[u32]) -> Result<Vec<u32>, String> {
    let mut all = children(victim)?;
    all.retain(|pid| !own.contains(pid));
    Ok(all)
}

/// Children of the victim's, by whichever thread.
fn children(victim: &Victim) -> Result<Vec<u32>, String> {
    let tasks = format!("/proc/{}/task", victim.target.pid());
    let tasks = fs::read_dir(&tasks).map_err(|e| format!("{tasks}: {e}"))?;
    let lists = tasks.flatten().filter_map(|task| {
        // A thread that has ended has handed its children on.
        fs::read_to_string(task.path().join("children")).ok()
    });
    let pids = lists.flat_map(|list| list.split(' ').flat_map(str::parse).collect::<Vec<_>>());
    Ok(pids.collect())
}

/// No image, or a whole one; then the directory is cleared for the next.
pub(crate) fn nothing_is_left(images: &Path, killed: bool) -> Result<(), String> {
    if killed && !images.join("manifest").exists() {
        return wait::until("the image's files to be removed", wait::LIMIT, || {
            Ok((!images.exists()).then_some(()))
        });
    }
    crate::common::icecore::Icecore::new(images.parent().unwrap_or(images), "verify")
        .arg("-D")
        .arg(images)
        .succeed()?;
    fs::remove_dir_all(images).map_err(|e| format!("remove {images:?}: {e}"))
}
