//! Seccomp filters.

use crate::harness::{Mode, Stage, Victim};
use crate::sys::{Threads, at, call, prctl, same, to};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("seccomp", filters),
        Victim::new("seccomp-that-kills", kills)
            .dump_args(&["--risk-seccomp"])
            .only(&[Mode::Cycles, Mode::Running]),
        Victim::refused("seccomp-refused", "seccomp", kills),
        Victim::refused("seccomp-strict", "strict mode", strict),
        Victim::new("seccomp-strict-risked", strict)
            .dump_args(&["--risk-seccomp"])
            .only(&[Mode::Cycles, Mode::Running]),
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

fn pipe() -> Result<[u32; 2], String> {
    let mut fds = [0_u32; 2];
    call("pipe2", libc::SYS_pipe2, &[to(&mut fds), 0])?;
    Ok(fds)
}

/// A thread in strict mode, which may read, write and end: it sends back what it
/// gets, plus one.
fn strict(stage: &mut Stage) -> Result<(), String> {
    let ([asked, ask], [heard, say]) = (pipe()?, pipe()?);
    std::thread::spawn(move || {
        let mut byte = 0_u8;
        let strict = prctl("strict mode", &[22, 1]).is_ok();
        let (from, to) = (asked as i32, say as i32);
        // SAFETY: one live byte; read, write and exit are all that is allowed.
        unsafe {
            while strict && libc::read(from, (&raw mut byte).cast(), 1) == 1 {
                byte = byte.wrapping_add(1);
                libc::write(to, (&raw const byte).cast(), 1);
            }
            libc::syscall(libc::SYS_exit, 0);
        }
    });
    let speak = |byte: u8| {
        let mut answer = [0_u8];
        call("write", libc::SYS_write, &[ask.into(), at(&[byte]), 1])?;
        call("read", libc::SYS_read, &[heard.into(), to(&mut answer), 1])?;
        same("the answer", &answer[0], &(byte + 1))
    };
    speak(1)?;
    while stage.next()? {
        speak(7)?;
    }
    Ok(())
}
