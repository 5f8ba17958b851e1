//! A victim that is a tree of 20 tasks, three generations of them, each of which
//! waits, counts and looks at what it got; the root beats when all of them have
//! gone on.

use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::time::{Duration, Instant};

type Act = fn() -> Result<(), String>;

/// Children of the root, each with two of its own but for the last.
const CHILDREN: usize = 7;
/// Tasks below the root.
const BELOW: usize = 19;
/// How long one of them may take, a dump of all included.
const LATE: Duration = Duration::from_secs(15);

/// What each has counted, in memory that all share.
static COUNTS: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());

/// One round of the root; `acts` is what the others do.
pub(crate) fn act(acts: &[Act]) -> Result<(), String> {
    if COUNTS.load(Ordering::Relaxed).is_null() {
        plant(acts)?;
    }
    let before: Vec<u64> = (0..BELOW)
        .map(|n| count(n).load(Ordering::Relaxed))
        .collect();
    let start = Instant::now();
    while (0..BELOW).any(|n| count(n).load(Ordering::Relaxed) == before[n]) {
        nobody_has_ended()?;
        if start.elapsed() > LATE {
            return Err("somebody does not go on".to_owned());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn count(number: usize) -> &'static AtomicU64 {
    // SAFETY: the area holds BELOW counters and is never unmapped.
    unsafe { &*COUNTS.load(Ordering::Relaxed).add(number) }
}

fn plant(acts: &[Act]) -> Result<(), String> {
    let (prot, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new area, of zeros, which all counters are.
    let area = unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0) };
    if area == libc::MAP_FAILED {
        return Err(format!("mmap: {}", std::io::Error::last_os_error()));
    }
    COUNTS.store(area.cast(), Ordering::Relaxed);
    for child in 0..CHILDREN {
        let number = child * 3;
        if fork()? {
            for grandchild in 1..3 {
                if number + grandchild < BELOW && fork()? {
                    work(number + grandchild, acts);
                }
            }
            work(number, acts);
        }
    }
    Ok(())
}

/// True in the child, which ends with its parent.
fn fork() -> Result<bool, String> {
    // SAFETY: there is one thread only, so that the child may do anything.
    match unsafe { libc::fork() } {
        -1 => Err(format!("fork: {}", std::io::Error::last_os_error())),
        0 => {
            // SAFETY: touches no memory.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn work(number: usize, acts: &[Act]) -> ! {
    loop {
        if let Err(e) = acts[number % acts.len()]().and_then(|()| nobody_has_ended()) {
            eprintln!("number {number}: {e}");
            std::process::exit(1);
        }
        count(number).fetch_add(1, Ordering::Relaxed);
    }
}

fn nobody_has_ended() -> Result<(), String> {
    let mut status = 0;
    // SAFETY: the status is live.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
        pid @ 1.. => Err(format!("child {pid} has ended: {status:#x}")),
        _ => Ok(()),
    }
}
