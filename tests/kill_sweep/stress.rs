//! What may happen to a dump, other than being killed at a point.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::wait;
use crate::sweep::nothing_is_left;
use crate::victim::Victim;

/// Seconds of dumps every 100 ms, unless `ICECORE_STRESS_SECONDS` says more.
const SECONDS: u64 = 8;

pub(crate) fn trials() -> impl Iterator<Item = Trial> {
    let all: [(&str, fn() -> Result<(), String>); 9] = [
        ("dumped_all_the_while", dumped_all_the_while),
        ("spawns_threads_all_the_while", spawns_threads),
        ("forks_all_the_while", forks),
        ("exits_in_the_middle", exits_in_the_middle),
        ("interrupted_by_sigint", interrupted),
        ("killed_over_a_stopped_target", killed_over_a_stopped_target),
        ("left_stopped", left_stopped),
        ("sleeps_and_wakes_without_a_vdso", without_a_vdso),
        ("waits_for_a_vforked_child", waits_for_a_vforked_child),
    ];
    all.into_iter().map(|(name, test)| {
        Trial::test(format!("stress::{name}"), move || {
            test().map_err(Failed::from)
        })
    })
}

fn scratch() -> Result<tempfile::TempDir, String> {
    tempfile::tempdir().map_err(|e| e.to_string())
}

fn clear(images: &Path) -> Result<(), String> {
    std::fs::remove_dir_all(images).map_err(|e| format!("remove {images:?}: {e}"))
}

/// A busy program with timers and signals flying is dumped every 100 ms, and
/// sees nothing of it: no EINTR, no wait that takes longer, no register changed.
fn dumped_all_the_while() -> Result<(), String> {
    let dir = scratch()?;
    let images = dir.path().join("image");
    let mut victim = Victim::start("mixed", dir.path())?;
    let seconds = std::env::var("ICECORE_STRESS_SECONDS");
    let seconds = seconds
        .map_or(Ok(SECONDS), |s| s.parse())
        .map_err(|_| "seconds?")?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut dumps = 0;
    while Instant::now() < end {
        let next = Instant::now() + Duration::from_millis(100);
        victim.target.dump_running(&images, &[])?;
        clear(&images)?;
        victim.is_unharmed()?;
        dumps += 1;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    println!("dumped {dumps} times in {seconds} s: no deviation");
    Ok(())
}

/// Threads come and go while the target is being frozen.
fn spawns_threads() -> Result<(), String> {
    let dir = scratch()?;
    let images = dir.path().join("image");
    // It never comes to rest.
    let mut victim = Victim::launch("spawning", dir.path())?;
    victim.beats_on(4)?;
    for _ in 0..20 {
        victim.target.dump_running(&images, &[])?;
        clear(&images)?;
        victim.beats_on(2)?;
    }
    Ok(())
}

/// Children come and go while the target is being frozen, and every other time
/// icecore is killed over it: whether a dump goes through or is refused for a
/// child it cannot carry, the target reaps every child with its own status and
/// never sees a signal or an EINTR of ours.
fn forks() -> Result<(), String> {
    let dir = scratch()?;
    let images = dir.path().join("image");
    let mut victim = Victim::launch("forking", dir.path())?;
    victim.beats_on(2)?;
    let (mut whole, mut refused, mut killed) = (0, 0, 0);
    for round in 0..100 {
        let mut dump = victim.target.dump_command(&images).arg("-R");
        if round % 2 == 1 {
            dump = dump.env("ICECORE_FAULT", format!("ptrace:{}", round / 2 + 1));
        }
        let dump = dump.run()?;
        victim.beats_on(1).map_err(|e| dump.describe(&e))?;
        if dump.status.signal() == Some(libc::SIGKILL) {
            killed += 1;
            nothing_is_left(&images, true).map_err(|e| dump.describe(&e))?;
        } else if dump.decided("children come and go")? {
            whole += 1;
            clear(&images)?;
        } else {
            refused += 1;
            nothing_is_left(&images, true).map_err(|e| dump.describe(&e))?;
            // Its children are the only thing about it that may be refused.
            dump.expect_failure("pid ")?.expect_failure("child")?;
        }
    }
    println!("over forks: {whole} dumps, {refused} refused, {killed} killed, 0 losses");
    match killed {
        0 => Err("icecore was never killed".to_owned()),
        _ => Ok(()),
    }
}

/// The target ends while it is being dumped: an error, or an image in time.
fn exits_in_the_middle() -> Result<(), String> {
    let dir = scratch()?;
    let images = dir.path().join("image");
    let mut caught = 0;
    for _ in 0..40 {
        let mut victim = Victim::launch("brief", dir.path())?;
        let dump = victim.target.dump_command(&images).arg("-R").run()?;
        match dump.status.code() {
            Some(0) => clear(&images)?,
            Some(_) => {
                caught += 1;
                nothing_is_left(&images, true).map_err(|e| dump.describe(&e))?;
            }
            None => return Err(dump.describe("should have ended by itself")),
        }
        if dump.stderr.contains("panicked") {
            return Err(dump.describe("panicked"));
        }
        let status = victim.target.wait()?;
        if !status.success() {
            return Err(dump.describe(&format!("the target was harmed: {status}")));
        }
    }
    match caught {
        0 => Err("no dump was cut short".to_owned()),
        _ => Ok(()),
    }
}

/// SIGINT in the middle of copying.
fn interrupted() -> Result<(), String> {
    let dir = scratch()?;
    let images = dir.path().join("image");
    let mut victim = Victim::start("big", dir.path())?;
    let dump = victim.target.dump_command(&images).arg("-R").start()?;
    let pages = images.join(".pages-0.tmp");
    wait::until("pages to be written", wait::LIMIT, || {
        let length = std::fs::metadata(&pages).map_or(0, |m| m.len());
        Ok((length > 1 << 20).then_some(()))
    })?;
    let pid = i32::try_from(dump.pid()).ok().and_then(Pid::from_raw);
    kill_process(pid.ok_or("no pid")?, Signal::INT).map_err(|e| e.to_string())?;
    let dump = dump.finish()?;
    if dump.status.success() {
        return Err(dump.describe("should have been interrupted"));
    }
    nothing_is_left(&images, true).map_err(|e| dump.describe(&e))?;
    victim.is_unharmed()
}

/// Whether all threads of the target stand still, by job control.
fn stands(victim: &Victim) -> Result<(), String> {
    let stat = format!("/proc/{}/stat", victim.target.pid());
    wait::until("the target to stand still", Duration::from_secs(5), || {
        let stat = std::fs::read_to_string(&stat).map_err(|e| e.to_string())?;
        let state = stat.rsplit(") ").next().and_then(|s| s.chars().next());
        Ok((state == Some('T')).then_some(()))
    })
}

/// A target that job control has stopped stays stopped, with the stub of a
/// killed icecore in it, with a thread still inside the stub, and through the
/// dump after that; told to go on, it does.
fn killed_over_a_stopped_target() -> Result<(), String> {
    let dir = scratch()?;
    let images = dir.path().join("image");
    let mut victim = Victim::start("nanosleep", dir.path())?;
    for point in 1.. {
        victim.target.signal(Signal::STOP)?;
        stands(&victim)?;
        let dump = victim.target.dump_command(&images).arg("-R");
        let dump = dump.env("ICECORE_FAULT", format!("ptrace:{point}")).run()?;
        let killed = dump.status.signal() == Some(libc::SIGKILL);
        let context = |e: String| dump.describe(&format!("point {point}: {e}"));
        stands(&victim).map_err(context)?;
        nothing_is_left(&images, killed).map_err(context)?;
        if point % 3 == 0 {
            victim.target.dump_running(&images, &[]).map_err(context)?;
            clear(&images)?;
            stands(&victim).map_err(context)?;
        }
        victim.target.signal(Signal::CONT)?;
        victim.is_unharmed().map_err(context)?;
        if !killed {
            dump.expect_success()?;
            println!(
                "{} ptrace points over a stopped target: 0 losses",
                point - 1
            );
            return Ok(());
        }
    }
    Ok(())
}

/// `-s` leaves it stopped, and SIGCONT lets it go on.
fn left_stopped() -> Result<(), String> {
    let dir = scratch()?;
    let images = dir.path().join("image");
    let mut victim = Victim::start("threads", dir.path())?;
    for _ in 0..3 {
        let dump = victim.target.dump_command(&images).arg("-s").succeed()?;
        stands(&victim).map_err(|e| dump.describe(&e))?;
        clear(&images)?;
        victim.target.signal(Signal::CONT)?;
        victim.is_unharmed()?;
    }
    Ok(())
}

/// A target without a vDSO is visited in the tail of a program's last page, which
/// holds what its file holds afterwards, awake and woken.
fn without_a_vdso() -> Result<(), String> {
    let dir = scratch()?;
    let images = dir.path().join("image");
    let mut victim = Victim::start("without_vdso", dir.path())?;
    let code_was = code_of(&victim)?;
    for _ in 0..3 {
        victim.target.dump_running(&images, &[])?;
        if code_of(&victim)? != code_was {
            return Err("a dump has left something in its code".to_owned());
        }
        clear(&images)?;
        victim.is_unharmed()?;
        victim.target.dump(&images, &[])?;
        victim.target.restore(&images, &[])?;
        if code_of(&victim)? != code_was {
            return Err("its code came back otherwise".to_owned());
        }
        clear(&images)?;
        victim.is_unharmed()?;
    }
    Ok(())
}

/// Everything executable in the target's memory.
fn code_of(victim: &Victim) -> Result<Vec<u8>, String> {
    use std::os::unix::fs::FileExt;
    let pid = victim.target.pid();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).map_err(|e| e.to_string())?;
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).map_err(|e| e.to_string())?;
    let mut code = Vec::new();
    for line in maps
        .lines()
        .filter(|l| l.contains(" r-xp ") && l.contains('/'))
    {
        let (range, _) = line.split_once(' ').ok_or("maps")?;
        let (start, end) = range.split_once('-').ok_or("maps")?;
        let number = |hex| u64::from_str_radix(hex, 16).map_err(|e| e.to_string());
        let (start, end) = (number(start)?, number(end)?);
        let mut bytes = vec![0; (end - start) as usize];
        memory
            .read_exact_at(&mut bytes, start)
            .map_err(|e| e.to_string())?;
        code.extend(bytes);
    }
    match code.is_empty() {
        true => Err("it has no code".to_owned()),
        false => Ok(code),
    }
}

/// A parent waiting for the child it has vforked cannot be stopped: it is named
/// once the time is up, and goes on.
fn waits_for_a_vforked_child() -> Result<(), String> {
    let dir = scratch()?;
    let images = dir.path().join("image");
    let mut victim = Victim::launch("vforking", dir.path())?;
    victim.beats_on(2)?;
    let refused = wait::until("a dump between fork and end", wait::LIMIT, || {
        let dump = victim
            .target
            .dump_command(&images)
            .args(["-R", "--timeout", "1"])
            .run()?;
        Ok(dump.stderr.contains("did not stop").then_some(dump))
    })?;
    let refused = refused.expect_failure("vforked")?;
    nothing_is_left(&images, true).map_err(|e| refused.describe(&e))?;
    victim.beats_on(2)
}
