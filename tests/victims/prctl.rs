//! prctl(2), arch_prctl(2) and their kin; registrations of a thread.

use std::sync::mpsc;

use crate::harness::{Stage, Victim};
use crate::sys::{Threads, at, call, prctl, prctl_into, same, to};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("prctl", controls).check(|outside| {
            let odd = outside.matching("thread/*/comm");
            match odd
                .filter(|(_, name)| name.starts_with("\u{fffd} x) R"))
                .count()
            {
                1 => Ok(()),
                n => Err(format!("{n} threads have the odd name")),
            }
        }),
        Victim::new("thread-registrations", registrations),
        Victim::new("syscall-user-dispatch", dispatch),
    ]
}

const MEMBARRIER: i64 = libc::SYS_membarrier;

/// What a thread's controls are, as far as it can tell.
fn thread_controls() -> Result<[u64; 8], String> {
    let mut mode = [0_u32; 1];
    let mut nodes = [0_u64; 16];
    let args = [to(&mut mode), to(&mut nodes), 1024, 0, 0];
    call("get_mempolicy", libc::SYS_get_mempolicy, &args)?;
    Ok([
        prctl_into("pdeathsig", 2)?,
        prctl_into("TSC", 25)? & 0xffff_ffff,
        prctl("machine checks", &[34, 0, 0, 0, 0])?,
        prctl("store bypass", &[52, 0, 0, 0, 0])?,
        prctl("L1D flush", &[52, 2, 0, 0, 0])?,
        call("personality", libc::SYS_personality, &[0xffff_ffff])?,
        mode[0].into(),
        nodes[0],
    ])
}

fn controls(stage: &mut Stage) -> Result<(), String> {
    type Setting = fn() -> Result<u64, String>;
    let settings: [Setting; 7] = [
        || prctl("name", &[15, at(b"\xff x) R 1 \n\t\0")]),
        || prctl("pdeathsig", &[1, 34]),
        || prctl("TSC", &[26, 2]),
        || prctl("machine checks", &[33, 1, 1, 0, 0]),
        || {
            call(
                "personality",
                libc::SYS_personality,
                &[0x0040_0000 | 0x0004_0000],
            )
        },
        || {
            call(
                "set_mempolicy",
                libc::SYS_set_mempolicy,
                &[2, at(&1_u64), 64],
            )
        },
        || {
            call(
                "set_mempolicy",
                libc::SYS_set_mempolicy,
                &[3 | 1 << 15, at(&1_u64), 64],
            )
        },
    ];
    let mut threads = Threads::new();
    for setting in settings {
        threads.spawn(move || {
            setting()?;
            let before = thread_controls()?;
            Ok(Box::new(move || {
                same("controls", &thread_controls()?, &before)
            }))
        })?;
    }
    prctl("child subreaper", &[36, 1])?;
    for register in [2, 4, 6, 8] {
        call("membarrier", MEMBARRIER, &[1 << register, 0, 0])?;
    }
    let registered = call("membarrier", MEMBARRIER, &[1 << 9, 0, 0])?;
    while stage.next()? {
        threads.check()?;
        same("child subreaper", &(prctl_into("subreaper", 37)? & 1), &1)?;
        let now = call("membarrier", MEMBARRIER, &[1 << 9, 0, 0])?;
        same("membarrier registrations", &now, &registered)?;
        call("private membarrier", MEMBARRIER, &[1 << 3, 0, 0])?;
    }
    Ok(())
}

/// Head and length of the robust list, the tid address, errors that rseq gives
/// for its registered area and for another one.
fn registered() -> Result<([u64; 3], [i32; 2]), String> {
    let (mut head, mut len) = (0_u64, 0_u64);
    let args = [0, to(&mut head), to(&mut len)];
    call("get_robust_list", libc::SYS_get_robust_list, &args)?;
    let area = rseq_area()?;
    let try_rseq = |at: u64| {
        let _ = call("rseq", libc::SYS_rseq, &[at, 32, 0, 0x5305_3053]);
        std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
    };
    Ok((
        [head, len, prctl_into("tid address", 40)?],
        [try_rseq(area), try_rseq(area + 4096)],
    ))
}

/// glibc keeps it at a fixed distance from the thread pointer.
fn rseq_area() -> Result<u64, String> {
    // SAFETY: asks for a symbol by a name that ends in NUL.
    let offset = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()) };
    if offset.is_null() {
        return Err("the C library has no __rseq_offset".to_owned());
    }
    // SAFETY: glibc exports it as a constant ptrdiff_t.
    let offset = unsafe { *offset.cast::<i64>() };
    const ARCH_GET_FS: u64 = 0x1003;
    let mut base = 0_u64;
    call(
        "arch_prctl",
        libc::SYS_arch_prctl,
        &[ARCH_GET_FS, to(&mut base)],
    )?;
    Ok(base.wrapping_add_signed(offset))
}

fn registrations(stage: &mut Stage) -> Result<(), String> {
    let mut threads = Threads::new();
    for _ in 0..3 {
        threads.spawn(|| {
            let before = registered()?;
            let busy = [libc::EBUSY, libc::EINVAL];
            same("rseq before", &before.1, &busy)?;
            Ok(Box::new(move || {
                same("registrations", &registered()?, &before)
            }))
        })?;
    }
    let before = registered()?;
    let (ask, asked) = mpsc::channel::<()>();
    let mut ender = Some((ask, std::thread::spawn(move || asked.recv().is_ok())));
    while stage.next()? {
        threads.check()?;
        same("registrations", &registered()?, &before)?;
        // One that was there in the dump can be joined: the kernel clears its
        // tid and wakes us.
        if let Some((ask, thread)) = ender.take() {
            ask.send(()).map_err(|e| e.to_string())?;
            same("end of a thread", &thread.join().is_ok_and(|ok| ok), &true)?;
        }
    }
    Ok(())
}

/// Dispatch is on with a selector that lets everything through; that it blocks
/// can be tried where the kernel is asked for a bad address first.
fn dispatch(stage: &mut Stage) -> Result<(), String> {
    static SELECTOR: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);
    static CAUGHT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    use std::sync::atomic::Ordering::SeqCst;
    extern "C" fn caught(_: i32) {
        SELECTOR.store(0, SeqCst);
        CAUGHT.fetch_add(1, SeqCst);
    }
    let mut old = [0_u64; 4];
    let ask = [libc::SIGSEGV as u64, 0, to(&mut old), 8];
    call("rt_sigaction", libc::SYS_rt_sigaction, &ask)?;
    let new = [caught as *const () as u64, 0x0400_0000, old[2], 0];
    let set = [libc::SIGSYS as u64, at(&new), 0, 8];
    call("rt_sigaction", libc::SYS_rt_sigaction, &set)?;
    let mut threads = Threads::new();
    threads.spawn(|| {
        prctl("user dispatch", &[59, 1, 0, 0, at(&SELECTOR)])?;
        Ok(Box::new(|| {
            let before = CAUGHT.load(SeqCst);
            SELECTOR.store(1, SeqCst);
            let _ = call("getppid", libc::SYS_getppid, &[]);
            SELECTOR.store(0, SeqCst);
            same("dispatched calls", &CAUGHT.load(SeqCst), &(before + 1))
        }))
    })?;
    while stage.next()? {
        threads.check()?;
    }
    Ok(())
}
