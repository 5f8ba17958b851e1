//! Targets that are hard to visit: nothing is to be mapped, the leader has
//! gone, a thread is inside a restartable sequence, a filter watches.

use std::arch::global_asm;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Mode, Stage, Victim};
use crate::sys::{at, call, prctl, to};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("write-xor-execute", write_xor_execute),
        Victim::refused("address-space-limit", "bytes for the parasite", no_room),
        Victim::refused("locked-memory-limit", "bytes for the parasite", no_lock),
        Victim::new("leader-gone", leader_gone),
        Victim::new("restartable-sequence", restartable),
        Victim::refused("filter-kills-munmap", "does not allow munmap", kill_munmap),
        Victim::new("filter-risked", kill_munmap)
            .dump_args(&["--risk-seccomp"])
            .only(&[Mode::Running]),
        Victim::refused("calls-dispatched", "user dispatch", dispatched),
    ]
}

fn idle_through(stage: &mut Stage) -> Result<(), String> {
    while stage.next()? {}
    Ok(())
}

/// PR_SET_MDWE: nothing may become executable.
fn write_xor_execute(stage: &mut Stage) -> Result<(), String> {
    const PR_SET_MDWE: u64 = 65;
    const PR_GET_MDWE: u64 = 66;
    prctl("PR_SET_MDWE", &[PR_SET_MDWE, 1])?;
    while stage.next()? {
        if prctl("PR_GET_MDWE", &[PR_GET_MDWE])? != 1 {
            return Err("MDWE is off".to_owned());
        }
    }
    Ok(())
}

/// RLIMIT_AS leaves no room for a single page.
fn no_room(stage: &mut Stage) -> Result<(), String> {
    let limit = [0u64, u64::MAX];
    let args = [0, libc::RLIMIT_AS.into(), at(&limit), 0];
    call("prlimit", libc::SYS_prlimit64, &args)?;
    idle_through(stage)
}

/// Every new page is to be locked (MCL_FUTURE), and no more may be.
fn no_lock(stage: &mut Stage) -> Result<(), String> {
    const MCL_FUTURE: u64 = 2;
    drop_ipc_lock()?;
    call("mlockall", libc::SYS_mlockall, &[MCL_FUTURE])?;
    let limit = [0u64, 0];
    let args = [0, libc::RLIMIT_MEMLOCK.into(), at(&limit), 0];
    call("prlimit", libc::SYS_prlimit64, &args)?;
    match call("mmap", libc::SYS_mmap, &[0, 4096, 3, 0x22, u64::MAX, 0]) {
        Err(_) => idle_through(stage),
        Ok(_) => Err("memory could be mapped".to_owned()),
    }
}

/// Gives up CAP_IPC_LOCK, which lifts the limit on locked memory.
fn drop_ipc_lock() -> Result<(), String> {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_IPC_LOCK: u32 = 14;
    let header = [VERSION_3, 0];
    // Effective, permitted, inheritable; the upper halves behind them.
    let mut sets = [0u32; 6];
    call("capget", libc::SYS_capget, &[at(&header), to(&mut sets)])?;
    sets[0] &= !(1 << CAP_IPC_LOCK);
    sets[1] &= !(1 << CAP_IPC_LOCK);
    call("capset", libc::SYS_capset, &[at(&header), at(&sets)]).map(drop)
}

/// The main thread ends; another goes on.
fn leader_gone(stage: &mut Stage) -> Result<(), String> {
    let stage = std::ptr::from_mut(stage) as u64;
    std::thread::spawn(move || {
        // SAFETY: the main thread ends below without returning, so that its
        // stack stays as it is, and uses the stage no more.
        let stage = unsafe { &mut *(stage as *mut Stage) };
        match idle_through(stage) {
            Ok(()) => exit(0),
            Err(e) => {
                eprintln!("{e}");
                exit(1)
            }
        }
    });
    call("exit", libc::SYS_exit, &[0]).map(drop)
}

global_asm!(
    r#"
    .pushsection .data.icecore_test_rseq, "aw", @progbits
    .balign 32
    icecore_test_rseq_cs:
        .long   0, 0
        .quad   icecore_test_rseq_start
        .quad   icecore_test_rseq_end - icecore_test_rseq_start
        .quad   icecore_test_rseq_abort
    .popsection

    .globl  icecore_test_rseq_spin
    icecore_test_rseq_spin:
        lea     rax, [rip + icecore_test_rseq_cs]
        mov     [rdi], rax
    icecore_test_rseq_start:
        pause
        jmp     icecore_test_rseq_start
    icecore_test_rseq_end:
        .long   0x53053053
    icecore_test_rseq_abort:
        ret
    "#
);

unsafe extern "C" {
    fn icecore_test_rseq_spin(rseq_cs: *mut u64);
    static __rseq_offset: isize;
    static __rseq_size: u32;
}

/// A thread inside a critical section without end: only its abort leads out,
/// and an abort that is lost leaves it there for ever.
fn restartable(stage: &mut Stage) -> Result<(), String> {
    // SAFETY: a constant of the C library's.
    if unsafe { __rseq_size } == 0 {
        return Err("the C library has registered no rseq".to_owned());
    }
    let aborts = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&aborts);
    std::thread::spawn(move || {
        loop {
            // SAFETY: the thread's own rseq area, at its place in the TCB.
            unsafe { icecore_test_rseq_spin(own_rseq_cs()) };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    while stage.next()? {
        let (before, start) = (aborts.load(Ordering::Relaxed), Instant::now());
        // Threads that spin on every CPU push it off its own.
        while aborts.load(Ordering::Relaxed) < before + 2 {
            if start.elapsed() > Duration::from_secs(20) {
                return Err("a critical section was never aborted".to_owned());
            }
            push_everyone();
        }
    }
    Ok(())
}

fn own_rseq_cs() -> *mut u64 {
    let tcb: *mut u8;
    // SAFETY: on x86-64 the thread pointer's first word points at itself.
    unsafe { std::arch::asm!("mov {}, fs:0", out(reg) tcb, options(nostack, readonly)) };
    // SAFETY: the C library says that the area is there; rseq_cs is at 8.
    unsafe { tcb.offset(__rseq_offset + 8).cast() }
}

fn push_everyone() {
    let spin = || {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(20) {}
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(spin);
        }
    });
}

/// A filter that kills whoever unmaps memory.
fn kill_munmap(stage: &mut Stage) -> Result<(), String> {
    // struct sock_filter: code, jt, jf, k.
    let filter: [(u16, u8, u8, u32); 4] = [
        (0x20, 0, 0, 0),
        (0x15, 0, 1, libc::SYS_munmap as u32),
        (0x06, 0, 0, 0x8000_0000),
        (0x06, 0, 0, 0x7fff_0000),
    ];
    let mut program = Vec::new();
    for (code, jt, jf, k) in filter {
        program.extend(code.to_le_bytes());
        program.extend([jt, jf]);
        program.extend(k.to_le_bytes());
    }
    let fprog = [filter.len() as u64, at(program.as_slice())];
    prctl("PR_SET_NO_NEW_PRIVS", &[38, 1, 0, 0, 0])?;
    prctl("PR_SET_SECCOMP", &[22, 2, at(&fprog)])?;
    let done = idle_through(stage);
    // Ending in order would unmap.
    match done {
        Ok(()) => drop(call("exit_group", libc::SYS_exit_group, &[0])),
        Err(e) => {
            eprintln!("{e}");
            drop(call("exit_group", libc::SYS_exit_group, &[1]));
        }
    }
    Ok(())
}

static SELECTOR: AtomicU64 = AtomicU64::new(0);

/// Another thread's system calls raise SIGSYS.
fn dispatched(stage: &mut Stage) -> Result<(), String> {
    const PR_SET_SYSCALL_USER_DISPATCH: u64 = 59;
    let ready = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&ready);
    std::thread::spawn(move || {
        let args = [PR_SET_SYSCALL_USER_DISPATCH, 1, 0, 0, at(&SELECTOR)];
        let set = prctl("PR_SET_SYSCALL_USER_DISPATCH", &args);
        told.store(if set.is_ok() { 1 } else { 2 }, Ordering::Relaxed);
        // SYSCALL_DISPATCH_FILTER_BLOCK; from here on it makes no call.
        SELECTOR.store(1, Ordering::Relaxed);
        loop {
            std::hint::spin_loop();
        }
    });
    while SELECTOR.load(Ordering::Relaxed) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    match ready.load(Ordering::Relaxed) {
        1 => idle_through(stage),
        _ => Err("no syscall user dispatch".to_owned()),
    }
}
