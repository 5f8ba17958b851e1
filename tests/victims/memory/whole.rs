//! What an address space has as a whole.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::area::{Area, PRIVATE, RW, ensure, own_flags, syscall};
use crate::harness::{Mode, Stage, Victim};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("vdso", vdso),
        Victim::new("vdso_forwarded", vdso)
            .only(&[Mode::Cycles])
            .restore_args(&["--forward-vdso"])
            .allow("map/*"),
        Victim::new("mdwe", mdwe),
        Victim::new("thp_disable", thp_disable),
        Victim::new("ksm_all", ksm_all),
    ]
}

/// Clocks read through the vDSO agree with the kernel's.
fn vdso(stage: &mut Stage) -> Result<(), String> {
    let mut before = Instant::now();
    while stage.next()? {
        ensure(Instant::now() >= before, "time went backwards")?;
        before = Instant::now();
        let (mut spec, clock) = ([0_i64; 2], libc::CLOCK_REALTIME as u64);
        let args = [clock, spec.as_mut_ptr() as u64, 0, 0, 0];
        syscall("clock_gettime", libc::SYS_clock_gettime, args)?;
        let kernel = Duration::new(spec[0] as u64, spec[1] as u32);
        let ours = SystemTime::now().duration_since(UNIX_EPOCH);
        let ours = ours.map_err(|e| e.to_string())?;
        let apart = ours.abs_diff(kernel);
        ensure(
            apart < Duration::from_secs(1),
            "the vDSO's clock is another",
        )?;
        // SAFETY: no arguments.
        let cpu = unsafe { libc::sched_getcpu() };
        ensure(cpu >= 0, "getcpu fails")?;
    }
    Ok(())
}

fn prctl(option: i32, args: [u64; 2]) -> Result<u64, String> {
    let args = [option as u64, args[0], args[1], 0, 0];
    syscall("prctl", libc::SYS_prctl, args)
}

/// Memory-deny-write-execute stays in force.
fn mdwe(stage: &mut Stage) -> Result<(), String> {
    prctl(
        libc::PR_SET_MDWE,
        [libc::PR_MDWE_REFUSE_EXEC_GAIN as u64, 0],
    )?;
    let area = Area::new(2, RW, PRIVATE)?;
    area.fill(1);
    while stage.next()? {
        area.check_all(1)?;
        let gain = area.protect(libc::PROT_READ | libc::PROT_EXEC);
        ensure(gain.is_err(), "memory became executable")?;
        ensure(prctl(libc::PR_GET_MDWE, [0, 0])? == 1, "MDWE is off")?;
    }
    Ok(())
}

/// Transparent huge pages stay off.
fn thp_disable(stage: &mut Stage) -> Result<(), String> {
    prctl(libc::PR_SET_THP_DISABLE, [1, 0])?;
    while stage.next()? {
        ensure(
            prctl(libc::PR_GET_THP_DISABLE, [0, 0])? == 1,
            "they are on again",
        )?;
    }
    Ok(())
}

/// All memory mergeable, but for one area.
fn ksm_all(stage: &mut Stage) -> Result<(), String> {
    const PR_SET_MEMORY_MERGE: i32 = 67;
    const PR_GET_MEMORY_MERGE: i32 = 68;
    prctl(PR_SET_MEMORY_MERGE, [1, 0])?;
    let area = Area::new(8, RW, PRIVATE)?;
    let not = area.pages(2, 2);
    not.advise(libc::MADV_UNMERGEABLE)?;
    area.fill(4);
    while stage.next()? {
        area.check_all(4)?;
        ensure(prctl(PR_GET_MEMORY_MERGE, [0, 0])? == 1, "it is off")?;
        let merges = |at: u64| own_flags(at).map(|flags| flags.contains(" mg"));
        ensure(merges(area.start())?, "memory is not mergeable any more")?;
        ensure(!merges(not.start())?, "the exception is gone")?;
    }
    Ok(())
}
