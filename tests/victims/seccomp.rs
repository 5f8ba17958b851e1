//! Seccomp filters.

use crate::harness::{Mode, Stage, Victim};
use crate::sys::{Threads, at, call, prctl, same};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("seccomp", filters),
        Victim::new("seccomp-that-kills", kills)
            .dump_args(&["--risk-seccomp"])
            .only(&[Mode::Cycles, Mode::Running]),
        Victim::refused("seccomp-refused", "seccomp", kills),
        Victim::refused("seccomp-supervised", "SECCOMP_RET_USER_NOTIF", supervised),
    ]
}

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
const USER_NOTIF: u32 = 0x7fc0_0000;
const FLAG_LOG: u64 = 2;

/// `struct sock_filter`.
#[repr(C)]
struct Instruction(u16, u8, u8, u32);

/// `struct sock_fprog`.
#[repr(C)]
struct Program(u16, u64);

/// Loads the number of the call, then returns `verdict` for each of `calls`
/// and `otherwise` for all others.
fn install(flags: u64, calls: &[i64], verdict: u32, otherwise: u32) -> Result<(), String> {
    let mut program = vec![Instruction(0x20, 0, 0, 0)];
    for (n, &nr) in calls.iter().enumerate() {
        let to_verdict = (calls.len() - n) as u8;
        program.push(Instruction(0x15, to_verdict, 0, nr as u32));
    }
    program.push(Instruction(0x06, 0, 0, otherwise));
    program.push(Instruction(0x06, 0, 0, verdict));
    let program = Program(program.len() as u16, program.leak().as_ptr() as u64);
    call("seccomp", libc::SYS_seccomp, &[1, flags, at(&program)]).map(drop)
}

fn errno_of(nr: i64) -> Option<i32> {
    let failed = call("", nr, &[]).is_err();
    failed.then(|| std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// Each thread its own: none, one with a log, two of which the later asks
/// first, one without new privileges.
fn filters(stage: &mut Stage) -> Result<(), String> {
    let mut threads = Threads::new();
    threads.spawn(|| {
        install(FLAG_LOG, &[libc::SYS_getppid], ERRNO | 77, ALLOW)?;
        Ok(Box::new(|| {
            same("getppid", &errno_of(libc::SYS_getppid), &Some(77))
        }))
    })?;
    threads.spawn(|| {
        install(
            0,
            &[libc::SYS_getppid, libc::SYS_getpgrp],
            ERRNO | 66,
            ALLOW,
        )?;
        install(0, &[libc::SYS_getpgrp], ERRNO | 99, ALLOW)?;
        Ok(Box::new(|| {
            same("getppid", &errno_of(libc::SYS_getppid), &Some(66))?;
            same("getpgrp", &errno_of(libc::SYS_getpgrp), &Some(99))
        }))
    })?;
    threads.spawn(|| {
        prctl("no new privileges", &[38, 1, 0, 0, 0])?;
        call("setresuid", libc::SYS_setresuid, &[1000, 1000, 1000])?;
        install(0, &[libc::SYS_getppid], ERRNO | 55, ALLOW)?;
        Ok(Box::new(|| {
            same("getppid", &errno_of(libc::SYS_getppid), &Some(55))
        }))
    })?;
    while stage.next()? {
        threads.check()?;
        same(
            "getppid without a filter",
            &errno_of(libc::SYS_getppid),
            &None,
        )?;
    }
    Ok(())
}

/// What little a victim does; everything else is its end.
fn kills(stage: &mut Stage) -> Result<(), String> {
    let needed = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_open,
        libc::SYS_openat,
        libc::SYS_close,
        libc::SYS_stat,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_rename,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_clock_gettime,
        libc::SYS_restart_syscall,
        libc::SYS_munmap,
        libc::SYS_exit_group,
        libc::SYS_sigaltstack,
        libc::SYS_futex,
    ];
    prctl("no new privileges", &[38, 1, 0, 0, 0])?;
    install(0, &needed, ALLOW, KILL)?;
    while stage.next()? {}
    Ok(())
}

fn supervised(stage: &mut Stage) -> Result<(), String> {
    install(0, &[libc::SYS_getppid], USER_NOTIF, ALLOW)?;
    while stage.next()? {}
    Ok(())
}
