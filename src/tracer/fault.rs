//! Points at which a test kills icecore: `ICECORE_FAULT=KIND:N` in the
//! environment makes it end itself with SIGKILL right before its Nth ptrace
//! request (`ptrace`) or its Nth step of writing (`write`). Only in builds with
//! debug assertions; elsewhere the points are nothing.

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ptrace requests.
    Ptrace,
    /// Steps of writing an image.
    Write,
}

/// A point is passed.
#[cfg(not(debug_assertions))]
pub fn point(_: Kind) {}

/// A point is passed.
#[cfg(debug_assertions)]
pub fn point(kind: Kind) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    // The one global of this program: it counts over all threads of a run
    // that is going to be killed.
    static WANTED: OnceLock<Option<(Kind, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    let Some((wanted, at)) = WANTED.get_or_init(wanted) else {
        return;
    };
    if *wanted == kind && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *at {
        // SAFETY: kill and getpid touch no memory.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}

#[cfg(debug_assertions)]
fn wanted() -> Option<(Kind, u64)> {
    let value = std::env::var("ICECORE_FAULT").ok()?;
    let (kind, at) = value.split_once(':')?;
    let kind = match kind {
        "ptrace" => Kind::Ptrace,
        "write" => Kind::Write,
        _ => return None,
    };
    Some((kind, at.parse().ok()?))
}
