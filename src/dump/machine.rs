//! Where and when an image is made, and the image's metadata put together.

use std::time::SystemTime;

use icecore_images::machine::MachineState;
use icecore_images::{ByteString, Checkpoint};

use super::DumpContext;
use crate::error::DumpError;
use crate::kernel::cpu;
use crate::tracer::Frozen;

/// The whole of the image's metadata, out of what has been collected.
pub(super) fn checkpoint(ctx: &mut DumpContext<'_>, machine: MachineState) -> Checkpoint {
    let tables = std::mem::take(&mut ctx.tables);
    Checkpoint {
        machine,
        clocks: ctx.clocks,
        tasks: tables.tasks,
        mms: tables.mms,
        fd_tables: tables.fd_tables,
        fs: tables.fs,
        sig_hands: tables.sig_hands,
        files: tables.files,
        pipes: tables.pipes,
        ghosts: tables.ghosts,
        shmems: tables.shmems,
        seccomp_filters: tables.seccomp_filters,
        page_files: tables.page_files,
        cgroups: tables.cgroups.state,
    }
}

/// This machine, now; `pid` is the root task.
pub(super) fn describe(pid: u32, frozen: &Frozen) -> Result<MachineState, DumpError> {
    let uname = rustix::system::uname();
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let boot_id = procfs::sys::kernel::random::boot_id().unwrap_or_default();
    let command = std::env::args_os();
    Ok(MachineState {
        icecore: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: uname.release().to_bytes().into(),
        host: uname.nodename().to_bytes().into(),
        boot_id: boot_id.trim().as_bytes().into(),
        cpu: ByteString(cpu::model().into_bytes()),
        xcr0: xcr0(pid, frozen)?,
        cpu_features: cpu::features(),
        created: since_epoch.map_or(0, |d| d.as_secs() as i64),
        command: command.map(|arg| arg.into_encoded_bytes().into()).collect(),
    })
}

/// The extended-state components that are on, as any thread's XSAVE area says.
fn xcr0(pid: u32, frozen: &Frozen) -> Result<u64, DumpError> {
    const SW_RESERVED: usize = 464;
    let thread = frozen.tasks.first().and_then(|task| task.threads.first());
    let area = thread.map_or(Ok(Vec::new()), |thread| thread.xstate());
    let area = area.map_err(|source| DumpError::Read {
        pid,
        what: "its extended state".to_owned(),
        source,
    })?;
    let mut word = [0; 8];
    if let Some(bytes) = area.get(SW_RESERVED..SW_RESERVED + 8) {
        word.copy_from_slice(bytes);
    }
    Ok(u64::from_le_bytes(word))
}
