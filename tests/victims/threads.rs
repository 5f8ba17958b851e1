//! Many threads, and address spaces that leave the restorer little room.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Stage, Victim};
use crate::sys::call;

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("threads-64", crowd),
        Victim::new("address-space-nearly-full", nearly_full),
    ]
}

thread_local! {
    static MINE: Cell<u64> = const { Cell::new(0) };
}

/// Sixty-four threads count, each beside a thread-local of its own and knowing
/// its id.
fn crowd(stage: &mut Stage) -> Result<(), String> {
    let counters: Vec<Arc<AtomicU64>> = (0..64).map(|_| Arc::default()).collect();
    let wrong = Arc::new(AtomicU64::new(0));
    for (i, counter) in counters.iter().enumerate() {
        let (counter, wrong) = (Arc::clone(counter), Arc::clone(&wrong));
        std::thread::spawn(move || {
            let tid = rustix::thread::gettid();
            MINE.set(i as u64);
            loop {
                counter.fetch_add(1, Ordering::Relaxed);
                let same = MINE.get() == i as u64 && rustix::thread::gettid() == tid;
                wrong.fetch_add(u64::from(!same), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1 + i as u64 % 16));
            }
        });
    }
    while stage.next()? {
        let seen: Vec<u64> = counters.iter().map(|c| c.load(Ordering::Relaxed)).collect();
        for (i, counter) in counters.iter().enumerate() {
            let since = Instant::now();
            while counter.load(Ordering::Relaxed) == seen[i] {
                if since.elapsed() > Duration::from_secs(20) {
                    return Err(format!("thread {i} stands still"));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        match wrong.load(Ordering::Relaxed) {
            0 => {}
            n => return Err(format!("threads were not themselves {n} times")),
        }
    }
    Ok(())
}

/// All but 64 MiB here and there of the lower half is mapped.
fn nearly_full(stage: &mut Stage) -> Result<(), String> {
    const GAP: u64 = 64 << 20;
    const FLAGS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let none = libc::PROT_NONE as u64;
    let mut size = 1_u64 << 46;
    while size >= GAP {
        let args = [0, size, none, FLAGS as u64, u64::MAX, 0];
        if call("mmap", libc::SYS_mmap, &args).is_err() {
            size /= 2;
        }
    }
    while stage.next()? {}
    Ok(())
}
