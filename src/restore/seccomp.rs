//! Seccomp: filters are installed by the thread itself while ptrace keeps them
//! from applying.

use icecore_images::seccomp::{SeccompFilter, SeccompState};
use icecore_images::thread::ThreadState;
use linux_raw_sys::prctl::PR_SET_SECCOMP;

use super::RestoreContext;
use crate::blocker::Place;
use crate::kernel::capability::{self, CAP_SYS_ADMIN};
use crate::kernel::status::Status;
use crate::tracer::{Script, args};

const SECCOMP_MODE_STRICT: u32 = 1;
const SECCOMP_SET_MODE_FILTER: u32 = 1;
/// Leaves speculation alone: what it was is restored by itself.
const SECCOMP_FILTER_FLAG_SPEC_ALLOW: u64 = 1 << 2;

/// Puts the thread under its filters, in the order of installation.
pub(super) fn restore(filters: &[SeccompFilter], thread: &ThreadState, script: &mut Script) {
    match &thread.seccomp {
        SeccompState::Off => {}
        SeccompState::Strict => {
            let args = args![PR_SET_SECCOMP, SECCOMP_MODE_STRICT];
            script.call("enter seccomp strict mode", libc::SYS_prctl as u32, args);
        }
        SeccompState::Filter(ids) => {
            for id in ids {
                if let Some(filter) = filters.iter().find(|f| f.id == *id) {
                    install(filter, script);
                }
            }
        }
    }
}

/// `struct sock_fprog`: a 16-bit length, padding, a pointer to instructions.
fn install(filter: &SeccompFilter, script: &mut Script) {
    let mut program = Vec::with_capacity(filter.program.len() * 8);
    for (code, jt, jf, k) in &filter.program {
        program.extend(code.to_le_bytes());
        program.extend([*jt, *jf]);
        program.extend(k.to_le_bytes());
    }
    let program = script.bytes(&program);
    let fprog = script.bytes(&{
        let mut fprog = [0; 16];
        fprog[..2].copy_from_slice(&(filter.program.len() as u16).to_le_bytes());
        fprog
    });
    script.pointer(fprog, 8, program);
    let flags = filter.flags | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    script.call(
        format!("install seccomp filter {}", filter.id),
        libc::SYS_seccomp as u32,
        args![SECCOMP_SET_MODE_FILTER, flags, fprog],
    );
}

/// Notes missing privileges, and filters of icecore's own that the task would
/// inherit.
pub(super) fn plan(ctx: &mut RestoreContext<'_>) {
    let mut threads = ctx.image.tasks.iter().flat_map(|t| &t.threads);
    let used = threads.any(|t| t.seccomp != SeccompState::Off);
    if used && !capability::have(CAP_SYS_ADMIN) {
        let problem = "threads of the image are under seccomp, and keeping filters from applying \
                       while they are restored needs CAP_SYS_ADMIN";
        let help = Some("run icecore with CAP_SYS_ADMIN");
        ctx.obstacle(Place::Machine, problem.to_owned(), help);
    }
    if Status::read(std::process::id()).is_ok_and(|s| s.seccomp != 0) {
        let problem = "icecore itself runs under seccomp filters, which the task would inherit";
        let help =
            Some("run icecore outside of them (in a container: --security-opt seccomp=unconfined)");
        ctx.obstacle(Place::Machine, problem.to_owned(), help);
    }
}
