//! The simplest victim: threads that count in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Stage, Victim};

pub(crate) fn victims() -> Vec<Victim> {
    vec![Victim::new("idle", idle)]
}

/// Two threads count, the main thread looks whether both go on.
fn idle(stage: &mut Stage) -> Result<(), String> {
    let counters: Vec<Arc<AtomicU64>> = (0..2).map(|_| Arc::default()).collect();
    for counter in &counters {
        let counter = Arc::clone(counter);
        thread::spawn(move || {
            loop {
                counter.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
        });
    }
    while counters.iter().any(|c| c.load(Ordering::Relaxed) == 0) {
        thread::sleep(Duration::from_millis(1));
    }
    let mut seen = vec![0; counters.len()];
    while stage.next()? {
        for (i, counter) in counters.iter().enumerate() {
            let since = Instant::now();
            while counter.load(Ordering::Relaxed) <= seen[i] {
                if since.elapsed() > Duration::from_secs(10) {
                    return Err(format!("thread {i} stands still at {}", seen[i]));
                }
                thread::sleep(Duration::from_millis(1));
            }
            seen[i] = counter.load(Ordering::Relaxed);
        }
    }
    Ok(())
}
