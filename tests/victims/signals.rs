//! Signal actions, masks, alternate stacks, queued signals.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Stage, Victim};
use crate::sys::{Threads, at, call, same, tid, to};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("signal-actions", actions),
        Victim::new("signal-queues", queues).check(some_are_pending),
        Victim::new("signal-without-siginfo", without_siginfo),
        Victim::new("signal-stacks", stacks),
        Victim::new("sigsuspend", suspended),
    ]
}

type Action = [u64; 4];

fn action_of(signal: u32) -> Result<Action, String> {
    let mut action: Action = [0; 4];
    let args = [signal.into(), 0, to(&mut action), 8];
    call("rt_sigaction", libc::SYS_rt_sigaction, &args)?;
    Ok(action)
}

fn all_actions() -> Result<Vec<Action>, String> {
    (1..=64).map(action_of).collect()
}

extern "C" fn nothing(_: i32) {}

fn set_action(signal: u32, change: impl FnOnce(&mut Action)) -> Result<(), String> {
    let mut action = action_of(signal)?;
    change(&mut action);
    let args = [signal.into(), at(&action), 0, 8];
    call("rt_sigaction", libc::SYS_rt_sigaction, &args).map(drop)
}

fn actions(stage: &mut Stage) -> Result<(), String> {
    let handler = nothing as *const () as u64;
    // A whole action as libc sets it lends its restorer to the others.
    let restorer = action_of(libc::SIGSEGV as u32)?[2];
    for signal in 34..=64 {
        set_action(signal, |a| {
            *a = [
                handler,
                0x0400_0000 | u64::from(signal % 2) << 28,
                restorer,
                1 << signal.min(63),
            ];
        })?;
    }
    set_action(libc::SIGPIPE as u32, |a| *a = [0; 4])?;
    set_action(libc::SIGTRAP as u32, |a| *a = [1, 0, 0, 0])?;
    set_action(libc::SIGUSR1 as u32, |a| {
        *a = [handler, 0x9400_0004, restorer, u64::MAX]
    })?;
    let before = all_actions()?;
    while stage.next()? {
        same("actions", &all_actions()?, &before)?;
    }
    Ok(())
}

/// Blocks everything in the calling thread.
fn block_all() -> Result<(), String> {
    let all = u64::MAX;
    let args = [libc::SIG_SETMASK as u64, at(&all), 0, 8];
    call("block", libc::SYS_rt_sigprocmask, &args).map(drop)
}

/// A siginfo as 32 words.
type Info = [u32; 32];

fn info(signal: u32, code: i32, value: u32) -> Info {
    let mut info = [0; 32];
    (info[0], info[2]) = (signal, code as u32);
    // The kernel keeps 48 bytes.
    for (n, word) in info.iter_mut().enumerate().take(12).skip(4) {
        *word = value.wrapping_mul(31).wrapping_add(n as u32);
    }
    info
}

fn queue_shared(info: &Info) -> Result<(), String> {
    let pid = std::process::id();
    let args = [pid.into(), info[0].into(), at(info)];
    call("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo, &args).map(drop)
}

fn queue_own(info: &Info) -> Result<(), String> {
    let args = [
        std::process::id().into(),
        tid().into(),
        info[0].into(),
        at(info),
    ];
    call("rt_tgsigqueueinfo", libc::SYS_rt_tgsigqueueinfo, &args).map(drop)
}

/// Takes one queued signal of `set`, if there is one.
fn take(set: u64) -> Option<Info> {
    let mut info: Info = [0; 32];
    let none = [0_u64; 2];
    let args = [at(&set), to(&mut info), at(&none), 8];
    call("rt_sigtimedwait", libc::SYS_rt_sigtimedwait, &args).ok()?;
    Some(info)
}

/// More than one siginfo batch, all codes, one signal many times.
fn shared_signals() -> Vec<Info> {
    let mut all: Vec<Info> = (0..64).map(|n| info(40, -1 - (n as i32 % 5), n)).collect();
    all.extend((41..=64).map(|signal| info(signal, 5, signal)));
    all.push(info(libc::SIGUSR2 as u32, 0x80, 7));
    all.push(info(libc::SIGWINCH as u32, 0, 8));
    all
}

/// What a thread queues for itself: also what is ignored by default.
fn own_signals() -> Vec<Info> {
    let mut all: Vec<Info> = (0..40).map(|n| info(50, -6, n)).collect();
    all.push(info(libc::SIGURG as u32, 0x7f, 3));
    all.push(info(libc::SIGCHLD as u32, -60, 4));
    all.push(info(libc::SIGTRAP as u32, 1, 5));
    all.extend([32, 33].map(|signal| info(signal, -1, signal)));
    all
}

/// The set of [`own_signals`].
const OWN: u64 = 1 << 49
    | 1 << 31
    | 1 << 32
    | 1 << (libc::SIGURG - 1)
    | 1 << (libc::SIGCHLD - 1)
    | 1 << (libc::SIGTRAP - 1);

/// Takes and compares; the kernel gives the lowest number first, and one
/// number in its order of arrival.
fn check_queue(mut expected: Vec<Info>, set: u64) -> Result<(), String> {
    expected.sort_by_key(|i| (i[0] != libc::SIGTRAP as u32, i[0]));
    for (n, expected) in expected.iter().enumerate() {
        same(&format!("queued signal {n}"), &take(set), &Some(*expected))?;
    }
    same("signals left", &take(set), &None)
}

fn queues(stage: &mut Stage) -> Result<(), String> {
    block_all()?;
    let mut threads = Threads::new();
    threads.spawn(|| {
        // glibc has opened its own signals here.
        block_all()?;
        own_signals().iter().try_for_each(queue_own)?;
        Ok(Box::new(|| {
            // Only this thread has signal 50; 40 and others are the task's.
            check_queue(own_signals(), OWN)?;
            own_signals().iter().try_for_each(queue_own)
        }))
    })?;
    let shared: Vec<Info> = shared_signals()
        .into_iter()
        .filter(|i| i[0] != 50)
        .collect();
    let set = !OWN;
    let leader = info(39, -3, 99);
    shared.iter().try_for_each(queue_shared)?;
    queue_own(&leader)?;
    while stage.next()? {
        threads.check()?;
        same("the leader's own", &take(1 << 38), &Some(leader))?;
        check_queue(shared.clone(), set)?;
        shared.iter().try_for_each(queue_shared)?;
        queue_own(&leader)?;
    }
    Ok(())
}

fn some_are_pending(outside: &crate::common::outside::Outside) -> Result<(), String> {
    match outside.get("status/ShdPnd") {
        Some("0000000000000000") | None => Err("no signal is pending".to_owned()),
        Some(_) => Ok(()),
    }
}

/// A signal sent under RLIMIT_SIGPENDING 0 is pending without a siginfo.
fn without_siginfo(stage: &mut Stage) -> Result<(), String> {
    block_all()?;
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 1000,
    };
    let args = [0, u64::from(libc::RLIMIT_SIGPENDING), at(&none), 0];
    call("prlimit", libc::SYS_prlimit64, &args)?;
    let pid = std::process::id().into();
    // Of a classic signal the siginfo is kept whatever the limit.
    call("kill", libc::SYS_kill, &[pid, 40])?;
    while stage.next()? {
        let taken = take(1 << 39).ok_or("the signal is gone")?;
        let told = (taken[0], taken[2], taken[4]);
        same("signal, code, sender", &told, &(40, 0, 0))?;
        call("kill", libc::SYS_kill, &[pid, 40])?;
    }
    Ok(())
}

type Stack = [u64; 3];

fn stack() -> Result<Stack, String> {
    let mut stack: Stack = [0; 3];
    call("sigaltstack", libc::SYS_sigaltstack, &[0, to(&mut stack)])?;
    Ok(stack)
}

fn set_stack(flags: u64, memory: &'static mut [u8]) -> Result<(), String> {
    let stack: Stack = [memory.as_ptr() as u64, flags, memory.len() as u64];
    call("sigaltstack", libc::SYS_sigaltstack, &[at(&stack), 0]).map(drop)
}

fn leak(len: usize) -> &'static mut [u8] {
    Box::leak(vec![0; len].into_boxed_slice())
}

static ENTERED: AtomicU32 = AtomicU32::new(0);
static LEAVE: AtomicU32 = AtomicU32::new(0);

/// Stays on the alternate stack until it is told to leave.
extern "C" fn linger(_: i32) {
    ENTERED.fetch_add(1, Ordering::SeqCst);
    while LEAVE.load(Ordering::SeqCst) < ENTERED.load(Ordering::SeqCst) {
        std::hint::spin_loop();
    }
}

fn stacks(stage: &mut Stage) -> Result<(), String> {
    const SS_AUTODISARM: u64 = 1 << 31;
    let restorer = action_of(libc::SIGSEGV as u32)?[2];
    let handler = linger as *const () as u64;
    // SA_ONSTACK | SA_RESTORER
    set_action(libc::SIGUSR1 as u32, |a| {
        *a = [handler, 0x0c00_0000, restorer, 0]
    })?;
    let mut threads = Threads::new();
    for flags in [0, SS_AUTODISARM] {
        threads.spawn(move || {
            set_stack(flags, leak(64 << 10))?;
            let before = stack()?;
            Ok(Box::new(move || {
                same("alternate stack", &stack()?, &before)
            }))
        })?;
    }
    threads.spawn(|| {
        call(
            "sigaltstack",
            libc::SYS_sigaltstack,
            &[at(&[0_u64, 2, 0]), 0],
        )?;
        Ok(Box::new(|| same("no alternate stack", &stack()?[1], &2)))
    })?;
    std::thread::spawn(|| {
        let on = set_stack(0, leak(128 << 10)).and_then(|()| stack());
        let (pid, tid) = (std::process::id().into(), tid().into());
        loop {
            let raised = call(
                "tgkill",
                libc::SYS_tgkill,
                &[pid, tid, libc::SIGUSR1 as u64],
            );
            if raised.is_err() || stack() != on {
                std::process::abort();
            }
        }
    });
    until("the handler to be entered", || {
        ENTERED.load(Ordering::SeqCst) > 0
    })?;
    while stage.next()? {
        threads.check()?;
        let entered = ENTERED.load(Ordering::SeqCst);
        LEAVE.fetch_add(1, Ordering::SeqCst);
        until("the handler to be left and entered", || {
            ENTERED.load(Ordering::SeqCst) > entered
        })?;
    }
    Ok(())
}

fn until(what: &str, done: impl Fn() -> bool) -> Result<(), String> {
    let since = Instant::now();
    while !done() {
        if since.elapsed() > Duration::from_secs(20) {
            return Err(format!("waited in vain for {what}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

static WOKEN: AtomicU32 = AtomicU32::new(0);

extern "C" fn wake(_: i32) {
    WOKEN.fetch_add(1, Ordering::SeqCst);
}

/// A thread asleep in sigsuspend has another mask than it will have.
fn suspended(stage: &mut Stage) -> Result<(), String> {
    let restorer = action_of(libc::SIGSEGV as u32)?[2];
    let handler = wake as *const () as u64;
    set_action(libc::SIGUSR1 as u32, |a| {
        *a = [handler, 0x0400_0000, restorer, 0]
    })?;
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mine = 1_u64 << (libc::SIGUSR1 - 1) | 1 << 40;
        let open = 0_u64;
        let set = [libc::SIG_SETMASK as u64, at(&mine), 0, 8];
        drop(call("block", libc::SYS_rt_sigprocmask, &set));
        let _ = tell.send(tid());
        loop {
            drop(call(
                "rt_sigsuspend",
                libc::SYS_rt_sigsuspend,
                &[at(&open), 8],
            ));
            let mut mask = 0_u64;
            drop(call(
                "mask",
                libc::SYS_rt_sigprocmask,
                &[0, 0, to(&mut mask), 8],
            ));
            if mask != mine {
                std::process::abort();
            }
        }
    });
    let tid = told.recv().map_err(|e| e.to_string())?;
    let asleep = || {
        let call = std::fs::read_to_string(format!("/proc/self/task/{tid}/syscall"));
        call.is_ok_and(|text| text.starts_with(&format!("{} ", libc::SYS_rt_sigsuspend)))
    };
    until("the thread to sleep", asleep)?;
    while stage.next()? {
        let woken = WOKEN.load(Ordering::SeqCst);
        let args = [std::process::id().into(), tid.into(), libc::SIGUSR1 as u64];
        call("tgkill", libc::SYS_tgkill, &args)?;
        until("the thread to wake", || {
            WOKEN.load(Ordering::SeqCst) > woken
        })?;
        until("the thread to sleep again", asleep)?;
    }
    drop(thread);
    Ok(())
}
