//! Memory that is written to all the time: what a dump stores of it has to be
//! that of one instant, exactly, or its owner finds out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::area::{Area, PAGE, PRIVATE, RW, SHARED, ensure};
use crate::harness::{Mode, Stage, Victim};

pub(crate) fn victims() -> Vec<Victim> {
    let modes = [Mode::Live, Mode::Running, Mode::Cycles];
    [
        Victim::new("chains", chains).only(&modes),
        Victim::new("chains-shared", chains_shared).only(&modes),
        Victim::new("chains-huge", chains_huge).only(&modes),
        Victim::new("churn", churn).only(&modes),
    ]
    // Areas come and go: what they look like from outside is no two times the
    // same.
    .map(|victim| victim.allow("map/*").allow("thread/*"))
    .into()
}

/// Threads that write, and what they have found.
struct Writers {
    stop: Arc<AtomicBool>,
    /// Rounds each has been through its memory.
    rounds: Vec<Arc<AtomicU64>>,
    threads: Vec<std::thread::JoinHandle<Result<(), String>>>,
}

impl Writers {
    fn start<F>(bodies: Vec<F>) -> Self
    where
        F: FnMut(u64) -> Result<(), String> + Send + 'static,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let rounds: Vec<Arc<AtomicU64>> = bodies.iter().map(|_| Arc::default()).collect();
        let threads = bodies.into_iter().zip(&rounds).map(|(mut body, round)| {
            let (stop, round) = (Arc::clone(&stop), Arc::clone(round));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    body(round.load(Ordering::Relaxed))?;
                    round.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        Self {
            threads: threads.collect(),
            stop,
            rounds,
        }
    }

    /// Waits until every thread has looked at all of its memory since.
    fn check(&mut self) -> Result<(), String> {
        let before: Vec<u64> = self
            .rounds
            .iter()
            .map(|r| r.load(Ordering::Relaxed))
            .collect();
        let since = Instant::now();
        while (self.rounds.iter().zip(&before)).any(|(r, b)| r.load(Ordering::Relaxed) < b + 2) {
            if self.threads.iter().any(|thread| thread.is_finished()) {
                return self.end();
            }
            ensure(
                since.elapsed() < Duration::from_secs(60),
                "a thread stands still",
            )?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread
                .join()
                .map_err(|_| "a thread was lost".to_owned())??;
        }
        Ok(())
    }
}

/// An area, sent to the thread that owns it.
struct Owned(Area);

// SAFETY: only the thread that it is sent to uses the memory.
unsafe impl Send for Owned {}

/// One round over an area: each page is held against what it was made in the
/// round before, whole, and made anew. Where a writer goes on with a page that
/// is older or newer than itself, it finds out.
fn rewrite(area: &Area, round: u64) -> Result<(), String> {
    for page in 0..area.len / PAGE {
        match round {
            0 => area.check_zero(page)?,
            _ => area.check(page, round)?,
        }
        area.write(page, round + 1);
    }
    Ok(())
}

fn chain(area: Area) -> impl FnMut(u64) -> Result<(), String> + Send + 'static {
    let owned = Owned(area);
    move |round| {
        let Owned(area) = &owned;
        rewrite(area, round)
    }
}

fn chains_in(stage: &mut Stage, areas: &[Area]) -> Result<(), String> {
    let mut writers = Writers::start(areas.iter().map(|area| chain(*area)).collect());
    while stage.next()? {
        writers.check()?;
    }
    writers.end()
}

/// Three threads, each over memory of its own.
fn chains(stage: &mut Stage) -> Result<(), String> {
    let areas: Result<Vec<_>, _> = (0..3).map(|_| Area::new(700, RW, PRIVATE)).collect();
    chains_in(stage, &areas?)
}

/// The same over shared memory, and over areas that a copy of the process does
/// not have.
fn chains_shared(stage: &mut Stage) -> Result<(), String> {
    let not_inherited = Area::new(200, RW, PRIVATE)?;
    not_inherited.advise(libc::MADV_DONTFORK)?;
    let wiped = Area::new(200, RW, PRIVATE)?;
    wiped.advise(libc::MADV_WIPEONFORK)?;
    let areas = [
        Area::new(300, RW, SHARED)?,
        not_inherited,
        wiped,
        Area::new(200, RW, PRIVATE)?,
    ];
    chains_in(stage, &areas)
}

/// Huge pages, which the kernel splits and collapses meanwhile.
fn chains_huge(stage: &mut Stage) -> Result<(), String> {
    const PAGES: usize = 512;
    let area = Area::new(3 * PAGES, RW, PRIVATE)?;
    area.advise(libc::MADV_HUGEPAGE)?;
    let skip = (area.start().next_multiple_of((PAGES * PAGE) as u64) - area.start()) as usize;
    let aligned = Owned(area.pages(skip / PAGE, 2 * PAGES));
    let body = move |round| {
        let Owned(area) = &aligned;
        rewrite(area, round)?;
        let part = area.pages(PAGES / 2, 1);
        // Splits the first huge page; then it is collapsed again (which need
        // not succeed).
        part.protect(libc::PROT_READ)?;
        part.protect(RW)?;
        const MADV_COLLAPSE: i32 = 25;
        let _ = area.advise(MADV_COLLAPSE);
        Ok(())
    };
    let mut writers = Writers::start(vec![body]);
    while stage.next()? {
        writers.check()?;
    }
    writers.end()
}

/// Two threads make areas, write to them, move them and unmap them.
fn churn(stage: &mut Stage) -> Result<(), String> {
    let bodies = (0..2).map(|_| {
        move |round: u64| {
            let pages = 1 + (round * 7 % 60) as usize;
            let areas: Result<Vec<_>, _> = (0..8).map(|_| Area::new(pages, RW, PRIVATE)).collect();
            let areas = areas?;
            for (i, area) in areas.iter().enumerate() {
                area.fill(round + i as u64);
            }
            for (i, area) in areas.iter().enumerate() {
                let moved = area.grow(pages + 1)?;
                for page in 0..pages {
                    moved.check(page, round + i as u64)?;
                }
                moved.check_zero(pages)?;
                moved.unmap()?;
            }
            Ok(())
        }
    });
    let mut writers = Writers::start(bodies.collect());
    while stage.next()? {
        writers.check()?;
    }
    writers.end()
}
