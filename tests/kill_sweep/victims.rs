//! Programs that notice if anything is done to them. Each beats: it writes a
//! growing number into the file that is its standard output.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{connected, registers};

type Act = fn() -> Result<(), String>;

/// A victim's name and one round of it.
pub(crate) const ALL: &[(&str, Act)] = &[
    ("busy", busy),
    ("alarmed", alarmed),
    ("nanosleep", nanosleep),
    ("futex", futex),
    ("epoll", epoll),
    ("eintr", eintr),
    ("restart", restart),
    ("restart_alone", restart_alone),
    ("restart_all_caught", restart_all_caught),
    ("threads", threads),
    ("memory", memory),
    ("without_vdso", without_vdso),
    ("connected", connected::speak),
    ("tree", tree),
];

/// Those that are swept over with live dumps as well.
pub(crate) const LIVE: &[&str] = &["alarmed", "threads", "memory"];

/// The distance of the points at which icecore is killed over a victim. One
/// without a signal that it ignores is watched call by call, hundreds of times
/// over the same few places.
pub(crate) fn stride(name: &str) -> usize {
    match name {
        "restart_all_caught" => 7,
        // The same few hundred for each of twenty.
        "tree" => 61,
        _ => 1,
    }
}

/// Victims of other tests than the sweep.
pub(crate) const OTHERS: &[(&str, Act)] = &[
    ("mixed", mixed),
    ("spawning", spawning),
    ("big", big),
    ("brief", brief),
    ("vforking", vforking),
    ("forking", crate::forking::act),
];

/// How long each wait of a victim is to take.
const WAIT: Duration = Duration::from_millis(30);
/// What a wait may take longer on a loaded machine, a dump included.
const LATE: Duration = Duration::from_secs(3);

static BEATS: AtomicU64 = AtomicU64::new(0);
static ALARMS: AtomicU64 = AtomicU64::new(0);

/// Plays the victim `name` for ever, or until something is wrong.
pub(crate) fn play(name: &str) -> Result<(), String> {
    let (_, act) = ALL
        .iter()
        .chain(OTHERS)
        .find(|(n, _)| *n == name)
        .ok_or("no such victim")?;
    // What the test's caller has left open is none of the victim's business.
    // SAFETY: nothing here owns a descriptor past the standard ones yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    loop {
        act()?;
        beat()?;
    }
}

fn beat() -> Result<(), String> {
    let beats = BEATS.fetch_add(1, Ordering::Relaxed) + 1;
    // SAFETY: writes eight bytes of a live number.
    let n = unsafe { libc::pwrite(1, (&raw const beats).cast(), 8, 0) };
    check(n == 8, "write a beat")
}

fn check(yes: bool, what: &str) -> Result<(), String> {
    match yes {
        true => Ok(()),
        false => Err(format!("{what}: {}", std::io::Error::last_os_error())),
    }
}

/// `call` must return `expected` and take its time.
fn timed(what: &str, expected: i64, call: impl FnOnce() -> i64) -> Result<(), String> {
    let start = Instant::now();
    let ret = call();
    let error = std::io::Error::last_os_error();
    let took = start.elapsed();
    if ret != expected {
        return Err(format!("{what} returned {ret} ({error}) after {took:?}"));
    }
    match took >= WAIT - Duration::from_millis(2) && took < WAIT + LATE {
        true => Ok(()),
        false => Err(format!("{what} took {took:?}")),
    }
}

fn tree() -> Result<(), String> {
    crate::tree::act(&[nanosleep, futex, nanosleep])
}

fn busy() -> Result<(), String> {
    registers::spin()
}

extern "C" fn on_alarm(_: libc::c_int) {
    ALARMS.fetch_add(1, Ordering::Relaxed);
}

/// A handler for SIGALRM, and the alarm: once after `first_us`, then every
/// `every_us` (0: never again).
fn arm(flags: i32, first_us: i64, every_us: i64) -> Result<(), String> {
    arm_with(on_alarm, flags, first_us, every_us)
}

fn arm_with(
    handler: extern "C" fn(libc::c_int),
    flags: i32,
    first_us: i64,
    every_us: i64,
) -> Result<(), String> {
    let action = libc::sigaction {
        sa_sigaction: handler as *const () as usize,
        sa_flags: flags,
        // SAFETY: a signal set of zeros is the empty one.
        sa_mask: unsafe { std::mem::zeroed() },
        sa_restorer: None,
    };
    // SAFETY: the action is live; its handler is async-signal-safe.
    let ret = unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) };
    check(ret == 0, "sigaction")?;
    let time = |us| libc::timeval {
        tv_sec: 0,
        tv_usec: us,
    };
    let timer = libc::itimerval {
        it_interval: time(every_us),
        it_value: time(first_us),
    };
    // SAFETY: the timer is live.
    let ret = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    check(ret == 0, "setitimer")
}

/// Busy under an alarm every millisecond, none of which may be the last.
fn alarmed() -> Result<(), String> {
    if ALARMS.load(Ordering::Relaxed) == 0 {
        arm(libc::SA_RESTART, 1000, 1000)?;
    }
    let before = ALARMS.load(Ordering::Relaxed);
    let start = Instant::now();
    while ALARMS.load(Ordering::Relaxed) == before {
        registers::spin()?;
        check(start.elapsed() < LATE, "no alarm for seconds")?;
    }
    Ok(())
}

fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}

fn nanosleep() -> Result<(), String> {
    let time = timespec(WAIT);
    timed("nanosleep", 0, || {
        // SAFETY: the time is live.
        i64::from(unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) })
    })
}

fn futex() -> Result<(), String> {
    let word = 0u32;
    let time = timespec(WAIT);
    timed("futex", -1, || {
        // SAFETY: the word and the time are live; nobody wakes it.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                &raw const word,
                libc::FUTEX_WAIT,
                0,
                &raw const time,
            )
        }
    })?;
    let timed_out = std::io::Error::last_os_error().raw_os_error() == Some(libc::ETIMEDOUT);
    check(timed_out, "futex should have timed out")
}

/// The one deviation that is allowed: a single EINTR where icecore is killed
/// directly after it has interrupted the thread.
fn epoll() -> Result<(), String> {
    static FD: AtomicU64 = AtomicU64::new(0);
    static EINTRS: AtomicU64 = AtomicU64::new(0);
    if FD.load(Ordering::Relaxed) == 0 {
        // SAFETY: makes a descriptor.
        FD.store(unsafe { libc::epoll_create1(0) } as u64, Ordering::Relaxed);
    }
    let fd = FD.load(Ordering::Relaxed) as i32;
    let start = Instant::now();
    // SAFETY: a zeroed event is valid, and written to only.
    let mut event: libc::epoll_event = unsafe { std::mem::zeroed() };
    // SAFETY: room for one event.
    let n = unsafe { libc::epoll_wait(fd, &raw mut event, 1, WAIT.as_millis() as i32) };
    if n == -1 {
        let interrupted = std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted;
        check(interrupted, "epoll_wait")?;
        let eintrs = EINTRS.fetch_add(1, Ordering::Relaxed) + 1;
        // SAFETY: writes eight bytes of a live number.
        unsafe { libc::pwrite(1, (&raw const eintrs).cast(), 8, 8) };
        return Ok(());
    }
    let took = start.elapsed();
    check(n == 0, "epoll_wait")?;
    check(
        took >= WAIT - Duration::from_millis(2) && took < WAIT + LATE,
        &format!("epoll_wait took {took:?}"),
    )
}

fn pipe() -> Result<[i32; 2], String> {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    check(unsafe { libc::pipe(fds.as_mut_ptr()) } == 0, "pipe")?;
    Ok(fds)
}

/// A read that only a signal ends: one lost EINTR and it hangs.
fn eintr() -> Result<(), String> {
    static FD: AtomicU64 = AtomicU64::new(0);
    if FD.load(Ordering::Relaxed) == 0 {
        FD.store(pipe()?[0] as u64, Ordering::Relaxed);
    }
    let before = ALARMS.load(Ordering::Relaxed);
    arm(0, 5000, 5000)?;
    let mut byte = 0u8;
    let fd = FD.load(Ordering::Relaxed) as i32;
    // SAFETY: room for one byte.
    let n = unsafe { libc::read(fd, (&raw mut byte).cast(), 1) };
    let error = std::io::Error::last_os_error().kind();
    arm(0, 0, 0)?;
    check(n == -1 && error == std::io::ErrorKind::Interrupted, "read")?;
    check(
        ALARMS.load(Ordering::Relaxed) > before,
        "EINTR without alarm",
    )
}

/// A read under alarms whose handler lets it be restarted: it may never see
/// EINTR.
fn restart() -> Result<(), String> {
    static FD: AtomicU64 = AtomicU64::new(0);
    if FD.load(Ordering::Relaxed) == 0 {
        let [read, write] = pipe()?;
        FD.store(read as u64, Ordering::Relaxed);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(20));
                // SAFETY: one byte of a live array.
                unsafe { libc::write(write, [7u8].as_ptr().cast(), 1) };
            }
        });
        arm(libc::SA_RESTART, 1000, 1000)?;
    }
    let mut byte = 0u8;
    let fd = FD.load(Ordering::Relaxed) as i32;
    // SAFETY: room for one byte.
    let n = unsafe { libc::read(fd, (&raw mut byte).cast(), 1) };
    check(n == 1 && byte == 7, "read")
}

static WRITE_END: AtomicU64 = AtomicU64::new(0);

extern "C" fn write_on_alarm(_: libc::c_int) {
    let fd = WRITE_END.load(Ordering::Relaxed) as i32;
    // SAFETY: one byte of a live array.
    unsafe { libc::write(fd, [7u8].as_ptr().cast(), 1) };
}

/// A single thread in a read that the handler of an alarm, which lets calls be
/// restarted, provides for: nobody else could tell how its handlers are.
fn restart_alone() -> Result<(), String> {
    static FD: AtomicU64 = AtomicU64::new(0);
    if FD.load(Ordering::Relaxed) == 0 {
        let [read, write] = pipe()?;
        FD.store(read as u64, Ordering::Relaxed);
        WRITE_END.store(write as u64, Ordering::Relaxed);
        arm_with(write_on_alarm, libc::SA_RESTART, 1000, 1000)?;
    }
    let mut byte = 0u8;
    let fd = FD.load(Ordering::Relaxed) as i32;
    // SAFETY: room for one byte.
    let n = unsafe { libc::read(fd, (&raw mut byte).cast(), 1) };
    check(n == 1 && byte == 7, "read")
}

/// The same with a handler for every signal: none is left that it ignores.
fn restart_all_caught() -> Result<(), String> {
    if WRITE_END.load(Ordering::Relaxed) == 0 {
        crate::forking::watch()?;
    }
    restart_alone()?;
    crate::forking::no_stray()
}

/// Four threads that check their registers and each other's progress.
fn threads() -> Result<(), String> {
    static ROUNDS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
    static BROKEN: AtomicU64 = AtomicU64::new(0);
    if ROUNDS[0].load(Ordering::Relaxed) == 0 {
        for round in &ROUNDS {
            round.store(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                loop {
                    if registers::spin().is_err() || nanosleep().is_err() {
                        BROKEN.store(1, Ordering::Relaxed);
                    }
                    round.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }
    check(
        BROKEN.load(Ordering::Relaxed) == 0,
        "a thread was disturbed",
    )?;
    let before = ROUNDS.each_ref().map(|r| r.load(Ordering::Relaxed));
    let start = Instant::now();
    for (round, before) in ROUNDS.iter().zip(before) {
        while round.load(Ordering::Relaxed) == before {
            check(start.elapsed() < WAIT + LATE, "a thread stands still")?;
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// No vDSO: a clock must not be asked for. A short wait by a raw call.
fn without_vdso() -> Result<(), String> {
    static UNMAPPED: std::sync::Once = std::sync::Once::new();
    let mut unmapped = Ok(());
    UNMAPPED.call_once(|| unmapped = unmap_vdso());
    unmapped?;
    registers::spin()?;
    let time = timespec(Duration::from_millis(10));
    // SAFETY: the time is live.
    let ret = unsafe { libc::syscall(libc::SYS_nanosleep, &raw const time, 0) };
    check(ret == 0, "nanosleep")
}

fn unmap_vdso() -> Result<(), String> {
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|e| e.to_string())?;
    let mut count = 0;
    for line in maps.lines() {
        if !["[vdso]", "[vvar]", "[vvar_vclock]"]
            .iter()
            .any(|n| line.ends_with(n))
        {
            continue;
        }
        let (range, _) = line.split_once(' ').ok_or("maps")?;
        let (start, end) = range.split_once('-').ok_or("maps")?;
        let number = |hex| usize::from_str_radix(hex, 16).map_err(|e| e.to_string());
        let (start, end) = (number(start)?, number(end)?);
        // SAFETY: nothing asks for the time from here on.
        let ret = unsafe { libc::munmap(start as *mut libc::c_void, end - start) };
        check(ret == 0, "munmap")?;
        count += 1;
    }
    check(count >= 2, "no vDSO was there")
}

/// 8 MiB of known contents.
fn memory() -> Result<(), String> {
    static MEMORY: std::sync::OnceLock<Vec<u64>> = std::sync::OnceLock::new();
    let words = MEMORY.get_or_init(|| {
        (0..1 << 20)
            .map(|i: u64| i.wrapping_mul(0x9e37_79b9))
            .collect()
    });
    let wrong = words
        .iter()
        .zip(0u64..)
        .find(|(word, i)| **word != i.wrapping_mul(0x9e37_79b9));
    match wrong {
        None => Ok(()),
        Some((_, i)) => Err(format!("word {i} has changed")),
    }
}

/// Everything at once: alarms in the main thread, waits and registers checked
/// in others, which block the alarm.
fn mixed() -> Result<(), String> {
    static WRONG: std::sync::Mutex<Option<String>> = std::sync::Mutex::new(None);
    let started = ALARMS.load(Ordering::Relaxed) != 0;
    if !started {
        block_alarm(libc::SIG_BLOCK)?;
        for act in [
            busy,
            nanosleep,
            futex,
            strict_epoll,
            strict_epoll,
            nanosleep,
        ] {
            std::thread::spawn(move || {
                while let Ok(()) = act().map_err(|e| {
                    if let Ok(mut wrong) = WRONG.lock() {
                        wrong.get_or_insert(e);
                    }
                }) {}
            });
        }
        block_alarm(libc::SIG_UNBLOCK)?;
    }
    alarmed()?;
    match WRONG.lock().map_err(|e| e.to_string())?.take() {
        Some(e) => Err(e),
        None => Ok(()),
    }
}

fn block_alarm(how: i32) -> Result<(), String> {
    // SAFETY: the set is live and made empty first.
    let ret = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGALRM);
        libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut())
    };
    check(ret == 0, "pthread_sigmask")
}

/// An epoll_wait that must not see EINTR.
fn strict_epoll() -> Result<(), String> {
    // SAFETY: makes a descriptor, closed below.
    let fd = unsafe { libc::epoll_create1(0) };
    // SAFETY: a zeroed event is valid, and written to only.
    let mut event: libc::epoll_event = unsafe { std::mem::zeroed() };
    let waited = timed("epoll_wait", 0, || {
        // SAFETY: room for one event.
        i64::from(unsafe { libc::epoll_wait(fd, &raw mut event, 1, WAIT.as_millis() as i32) })
    });
    // SAFETY: our own descriptor.
    unsafe { libc::close(fd) };
    waited
}

/// Threads that come and go all the while.
fn spawning() -> Result<(), String> {
    let threads: Vec<_> = (0..4)
        .map(|_| std::thread::spawn(|| std::thread::spawn(registers::spin).join()))
        .collect();
    for thread in threads {
        thread
            .join()
            .and_then(|inner| inner)
            .map_err(|_| "a thread was lost")??;
    }
    Ok(())
}

/// 256 MiB.
fn big() -> Result<(), String> {
    static MEMORY: std::sync::OnceLock<Vec<u64>> = std::sync::OnceLock::new();
    let words = MEMORY.get_or_init(|| (0..32 << 20).collect());
    check(words[words.len() - 1] == words.len() as u64 - 1, "memory")
}

/// Ends by itself very soon.
fn brief() -> Result<(), String> {
    static THREADS: AtomicU64 = AtomicU64::new(0);
    if THREADS.fetch_add(1, Ordering::Relaxed) < 20 {
        std::thread::spawn(|| std::thread::sleep(Duration::from_millis(5)));
        return Ok(());
    }
    std::process::exit(0)
}

/// Waits for one vforked child after the other; each lives for two seconds.
fn vforking() -> Result<(), String> {
    let flags = libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is a fork; the child only sleeps and ends.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if child == 0 {
        let time = timespec(Duration::from_secs(2));
        // SAFETY: as above.
        unsafe {
            libc::nanosleep(&raw const time, std::ptr::null_mut());
            libc::_exit(0)
        }
    }
    // SAFETY: no status is asked for.
    let reaped = unsafe { libc::waitpid(child as i32, std::ptr::null_mut(), 0) };
    check(child > 0 && reaped == child as i32, "vfork")
}
