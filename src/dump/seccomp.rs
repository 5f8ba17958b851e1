//! Seccomp: filters, read through ptrace and kept once for all threads that
//! have the same.

use icecore_images::ids::SeccompFilterId;
use icecore_images::seccomp::{SeccompFilter, SeccompState};

use super::DumpContext;
use crate::blocker::Place;
use crate::kernel::status::Status;
use crate::tracer::peek::{self, SockFilter};

const SECCOMP_MODE_STRICT: u32 = 1;
const SECCOMP_MODE_FILTER: u32 = 2;
const SECCOMP_RET_ACTION_FULL: u32 = 0xffff_0000;
const SECCOMP_RET_USER_NOTIF: u32 = 0x7fc0_0000;
const BPF_RET: u16 = 0x06;
const BPF_CLASS: u16 = 0x07;
const BPF_RVAL: u16 = 0x18;
const BPF_K: u16 = 0x00;

/// The seccomp state of a thread; what cannot be carried becomes a blocker.
pub(super) fn collect(
    ctx: &mut DumpContext<'_>,
    place: &Place,
    tid: u32,
    status: &Status,
) -> std::io::Result<SeccompState> {
    match status.seccomp {
        SECCOMP_MODE_STRICT => Ok(SeccompState::Strict),
        SECCOMP_MODE_FILTER => filters(ctx, place, tid).map(SeccompState::Filter),
        _ => Ok(SeccompState::Off),
    }
}

fn filters(
    ctx: &mut DumpContext<'_>,
    place: &Place,
    tid: u32,
) -> std::io::Result<Vec<SeccompFilterId>> {
    let mut ids = Vec::new();
    loop {
        match peek::seccomp_filter(tid, ids.len()) {
            Ok(None) => return Ok(ids),
            Ok(Some((program, flags))) => {
                if notifies(&program) {
                    block_listener(ctx, place, ids.len());
                }
                ids.push(intern(&mut ctx.tables.seccomp_filters, program, flags));
            }
            Err(e) if e.raw_os_error() == Some(libc::EACCES) => {
                let problem = "its seccomp filters cannot be read".to_owned();
                let help = "run icecore with CAP_SYS_ADMIN and without seccomp filters of its own";
                ctx.block(place.clone(), problem, Some(help));
                return Ok(ids);
            }
            Err(e) if e.raw_os_error() == Some(libc::EMEDIUMTYPE) => {
                let problem = format!("seccomp filter {} is not a classic BPF program", ids.len());
                ctx.block(place.clone(), problem, None);
                return Ok(ids);
            }
            Err(e) => return Err(e),
        }
    }
}

fn block_listener(ctx: &mut DumpContext<'_>, place: &Place, index: usize) {
    let problem = format!(
        "seccomp filter {index} hands system calls to a supervisor (SECCOMP_RET_USER_NOTIF), \
         whose listener cannot be carried"
    );
    ctx.block(place.clone(), problem, None);
}

/// Whether a program can ask for a supervisor: the listener itself is not
/// shown by the kernel.
fn notifies(program: &[SockFilter]) -> bool {
    program.iter().any(|&(code, _, _, k)| {
        code & BPF_CLASS == BPF_RET
            && code & BPF_RVAL == BPF_K
            && k & SECCOMP_RET_ACTION_FULL == SECCOMP_RET_USER_NOTIF
    })
}

fn intern(known: &mut Vec<SeccompFilter>, program: Vec<SockFilter>, flags: u64) -> SeccompFilterId {
    let same = |f: &&SeccompFilter| f.flags == flags && f.program == program;
    if let Some(filter) = known.iter().find(same) {
        return filter.id;
    }
    let id = SeccompFilterId(known.len() as u32);
    known.push(SeccompFilter { id, flags, program });
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_programs_are_kept_once() {
        let mut known = Vec::new();
        let allow = vec![(BPF_RET, 0, 0, 0x7fff_0000)];
        let kill = vec![(BPF_RET, 0, 0, 0)];
        assert_eq!(intern(&mut known, allow.clone(), 0), SeccompFilterId(0));
        assert_eq!(intern(&mut known, kill, 0), SeccompFilterId(1));
        assert_eq!(intern(&mut known, allow.clone(), 0), SeccompFilterId(0));
        assert_eq!(intern(&mut known, allow, 2), SeccompFilterId(2));
    }

    #[test]
    fn a_supervisor_is_noticed() {
        assert!(notifies(&[(BPF_RET, 0, 0, SECCOMP_RET_USER_NOTIF | 7)]));
        assert!(!notifies(&[(0x20, 0, 0, SECCOMP_RET_USER_NOTIF)]));
    }
}
