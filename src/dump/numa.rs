//! NUMA policies of areas, asked for inside: `numa_maps` mixes them with the
//! policy of the task, and walks all pages.

use icecore_images::mm::{Backing, Vma};
use icecore_images::prctl::NumaPolicy;

use crate::tracer::freeze::InjectError;
use crate::tracer::{Arg, Buffer, Call, FrozenTask, Script};

/// Areas asked about in one script.
const BATCH: usize = 4096;
/// Bits of a node mask; the kernel's are never longer.
const NODES: u64 = 1024;
const MPOL_F_ADDR: u64 = 2;

/// Fills in the policies of all areas.
pub(super) fn inspect(task: &mut FrozenTask, vmas: &mut [Vma]) -> Result<(), InjectError> {
    let mut own: Vec<&mut Vma> = vmas.iter_mut().filter(|vma| may_have_one(vma)).collect();
    for batch in own.chunks_mut(BATCH) {
        let modes = modes(task, batch)?;
        let mut with_policy: Vec<(&mut Vma, u32)> = batch
            .iter_mut()
            .zip(modes)
            .filter_map(|(vma, mode)| Some((&mut **vma, mode.filter(|&m| m != 0)?)))
            .collect();
        if !with_policy.is_empty() {
            nodes(task, &mut with_policy)?;
        }
    }
    Ok(())
}

fn may_have_one(vma: &Vma) -> bool {
    !matches!(
        vma.backing,
        Backing::Vdso | Backing::Vvar | Backing::VvarVclock | Backing::Vsyscall
    )
}

/// The mode of each area; `None` where the kernel knows no policies.
fn modes(task: &mut FrozenTask, vmas: &[&mut Vma]) -> Result<Vec<Option<u32>>, InjectError> {
    let mut script = Script::new();
    let buffer = script.buffer(vmas.len() * 4);
    let calls: Vec<Call> = vmas
        .iter()
        .enumerate()
        .map(|(i, vma)| {
            let args = [
                Arg::Inside(buffer, i * 4),
                0.into(),
                0.into(),
                vma.start.into(),
                MPOL_F_ADDR.into(),
            ];
            script.try_call("read a memory policy", libc::SYS_get_mempolicy as u32, args)
        })
        .collect();
    let outcome = task.run(0, &script)?;
    let mode = |(i, &call)| {
        let known = outcome.result(call).is_ok();
        known.then(|| outcome.u32_at(buffer, i * 4))
    };
    Ok(calls.iter().enumerate().map(mode).collect())
}

fn nodes(task: &mut FrozenTask, vmas: &mut [(&mut Vma, u32)]) -> Result<(), InjectError> {
    let mut script = Script::new();
    let masks: Vec<Buffer> = vmas
        .iter()
        .map(|(vma, _)| {
            let mask = script.buffer((NODES / 8) as usize);
            let args = [
                0.into(),
                Arg::from(mask),
                NODES.into(),
                vma.start.into(),
                MPOL_F_ADDR.into(),
            ];
            script.call("read a node mask", libc::SYS_get_mempolicy as u32, args);
            mask
        })
        .collect();
    let outcome = task.run(0, &script)?;
    for ((vma, mode), mask) in vmas.iter_mut().zip(masks) {
        let words = (0..(NODES / 64) as usize).map(|i| outcome.u64_at(mask, i * 8));
        let mut nodes: Vec<u64> = words.collect();
        while nodes.last() == Some(&0) {
            nodes.pop();
        }
        vma.numa = Some(NumaPolicy { mode: *mode, nodes });
    }
    Ok(())
}
