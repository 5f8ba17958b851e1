//! Images of another machine: what this one lacks is said before anything is
//! made.

use super::*;
use common::reencode;
use icecore_images::checkpoint::Checkpoint;
use icecore_images::thread::{XComponent, XState};

/// A process that is asleep in an image which is then changed.
fn asleep(scratch: &Scratch, change: impl FnOnce(&mut Checkpoint)) -> Result<Target> {
    let mut target = sleeper()?;
    let real = scratch.path().join("real");
    target.dump(&real, &[])?;
    reencode::changed(&real, &scratch.images(), change)?;
    Ok(target)
}

/// Restoring it is refused with `text` and `help` in one line each, and has
/// made nothing: no process, no file.
fn is_refused(change: impl FnOnce(&mut Checkpoint), text: &str, help: &str) -> Result {
    let scratch = Scratch::new()?;
    let mut target = asleep(&scratch, change)?;
    let done = scratch.restore().arg("-d").run()?;
    let done = done.expect_failure(text)?.expect_failure(help)?;
    let about = |line: &&str| line.contains(text) || line.contains(help);
    if done.stderr.lines().filter(about).count() > 2 {
        return Err(done.describe("says it more than once"));
    }
    target.reap_killed().map_err(|e| done.describe(&e))?;
    let mut names = Vec::new();
    for entry in io(fs::read_dir(scratch.images()))? {
        names.push(io(entry)?.file_name());
    }
    names.sort();
    match names.iter().eq(["manifest", "objects", "pages-0"].iter()) {
        true => Ok(()),
        false => Err(done.describe(&format!("left {names:?}"))),
    }
}

#[test]
fn whose_cpu_has_instructions_this_one_lacks() -> Result {
    is_refused(
        |image| {
            image.machine.cpu = b"Imaginary CPU"[..].into();
            image.machine.cpu_features.fill(u32::MAX);
        },
        "(there: Imaginary CPU; here: ",
        "help: restore on a machine whose CPU has these features",
    )
}

#[test]
fn whose_cpu_has_registers_this_one_lacks() -> Result {
    // PASID is for the kernel, and in no CPU's XCR0.
    const COMPONENT: u32 = 10;
    is_refused(
        |image| {
            for thread in &mut image.tasks[0].threads {
                let state = &mut thread.xstate;
                let end = state.area.0.len();
                state.area.0.resize(end + 64, 0);
                state.area.0[513] |= 1 << (COMPONENT - 8);
                state.xcr0 |= 1 << COMPONENT;
                state.layout.push(XComponent {
                    number: COMPONENT,
                    offset: end as u32,
                    size: 64,
                });
                state.layout.sort_by_key(|c| c.number);
            }
        },
        "which this CPU does not have",
        "help: restore on a CPU like the one of the dump",
    )
}

/// The upper half of the AVX registers.
fn avx(state: &XState) -> Option<std::ops::Range<usize>> {
    let avx = state.layout.iter().find(|c| c.number == 2)?;
    let at = avx.offset as usize;
    Some(at..at + avx.size as usize)
}

/// Another CPU may keep its registers elsewhere in the area; they come back.
#[test]
fn whose_cpu_keeps_its_registers_elsewhere() -> Result {
    const START: usize = 512 + 64;
    const FURTHER: usize = 1024;
    let scratch = Scratch::new()?;
    let mut target = asleep(&scratch, |image| {
        let state = &mut image.tasks[0].threads[0].xstate;
        let moved = state.area.0.split_off(START);
        state.area.0.resize(START + FURTHER, 0xa5);
        state.area.0.extend(moved);
        for component in &mut state.layout {
            component.offset += FURTHER as u32;
        }
        // XSTATE_BV: x87, SSE, AVX are in use.
        state.area.0[512] |= 7;
        if let Some(avx) = avx(state) {
            state.area.0[avx].fill(0x5a);
        }
    })?;
    target.restore(&scratch.images(), &[])?;
    let again = scratch.path().join("again");
    target.dump_running(&again, &[])?;
    let image = icecore_images::Image::open(&again).map_err(|e| e.to_string())?;
    let state = &image.checkpoint.tasks[0].threads[0].xstate;
    let avx = avx(state).ok_or("this CPU has no AVX")?;
    assert_eq!(avx.start, START, "this CPU keeps them where all do");
    assert!(state.area.0[avx].iter().all(|&byte| byte == 0x5a));
    Ok(())
}

/// Raising a hard limit takes CAP_SYS_RESOURCE: named before anything is made.
#[test]
fn where_hard_limits_were_higher() -> Result {
    let scratch = Scratch::new()?;
    let mut target = asleep(&scratch, |image| {
        // RLIMIT_NOFILE, beyond what any process here has.
        image.tasks[0].rlimits[7].hard = u64::MAX;
    })?;
    let mut without = Command::new("setpriv");
    without.args([
        "--bounding-set",
        "-sys_resource",
        "--inh-caps",
        "-sys_resource",
    ]);
    let restore = Icecore::by(scratch.path(), without, "restore");
    let done = restore.arg("-D").arg(scratch.images()).arg("-d").run()?;
    let done = done.expect_failure("its hard limit \"Max open files\" is unlimited")?;
    let done = done.expect_failure("help: run icecore with CAP_SYS_RESOURCE")?;
    target.reap_killed().map_err(|e| done.describe(&e))
}

#[test]
fn of_another_architecture_or_version() -> Result {
    let scratch = Scratch::new()?;
    let mut target = sleeper()?;
    target.dump(&scratch.images(), &[])?;
    let manifest = scratch.images().join("manifest");
    let sound = io(fs::read(&manifest))?;
    let cases: [(usize, u16, &str); 2] = [
        (14, 183, "made on aarch64, this icecore restores x86_64"),
        (8, 9, "image format 9.0 is not supported"),
    ];
    for (at, value, text) in cases {
        let mut changed = sound.clone();
        changed[at..at + 2].copy_from_slice(&value.to_le_bytes());
        io(fs::write(&manifest, changed))?;
        let done = scratch.restore().arg("-d").run()?;
        let done = done
            .expect_failure(text)?
            .expect_failure("help: restore it ")?;
        assert_eq!(done.stderr.lines().count(), 2, "{}", done.stderr);
        target.reap_killed().map_err(|e| done.describe(&e))?;
    }
    Ok(())
}
