//! Children that have ended and were not waited for.

use icecore_images::ids::{FdTableId, FsId, MmId, SigHandId};
use icecore_images::task::{CpuTime, RunState, TaskState};

use super::DumpContext;
use crate::blocker::Place;
use crate::error::DumpError;
use crate::kernel::proc_text;
use crate::kernel::stat::Stat;
use crate::kernel::status::Status;
use crate::tracer::Zombie;

/// Describes them: all that is left is where they were, and how they ended.
pub(super) fn collect(ctx: &mut DumpContext<'_>, zombies: &[Zombie]) -> Result<(), DumpError> {
    for zombie in zombies {
        let pid = zombie.pid;
        // Zeros for the wait status are shown to those who may not know it;
        // those may not read this either.
        if let Err(e) = proc_text::read(pid, "personality") {
            let problem = format!("the status it ended with cannot be read: {e}");
            ctx.block(Place::Task { pid }, problem, Some("CAP_SYS_PTRACE"));
        }
        let state = state(*zombie).map_err(|source| DumpError::Read {
            pid,
            what: "how it ended".to_owned(),
            source,
        })?;
        ctx.tables.tasks.push(state);
    }
    Ok(())
}

fn state(zombie: Zombie) -> std::io::Result<TaskState> {
    let stat = Stat::read(zombie.pid)?;
    let status = Status::read(zombie.pid)?;
    let [user, system, children_user, children_system] = stat.times;
    Ok(TaskState {
        pid: zombie.pid,
        parent: Some(zombie.parent),
        pgid: stat.pgid,
        sid: stat.sid,
        ns_pids: status.ns_tgids,
        run: RunState::Zombie {
            status: stat.exit_status,
        },
        exit_signal: stat.exit_signal,
        mm: MmId(0),
        fd_table: FdTableId(0),
        fs: FsId(0),
        sig_hand: SigHandId(0),
        pending: Vec::new(),
        interval_timers: Default::default(),
        posix_timers: Vec::new(),
        rlimits: Vec::new(),
        oom_score_adj: 0,
        login_uid: u32::MAX,
        autogroup: None,
        controls: Default::default(),
        cpu_time: CpuTime {
            user,
            system,
            children_user,
            children_system,
        },
        threads: Vec::new(),
    })
}
