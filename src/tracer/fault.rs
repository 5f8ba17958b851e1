//! Points at which a test kills icecore: `ICECORE_FAULT=KIND:N` in the
//! environment makes it end itself with SIGKILL right before its Nth ptrace
//! request (`ptrace`), its Nth step of writing (`write`) or of looking at queues of
//! sockets (`queue`), or its Nth change of the network (`network`), and fails its Nth step
//! of rebuilding a task (`restore`). Only in builds with debug assertions;
//! elsewhere the points are nothing.

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ptrace requests.
    Ptrace,
    /// Steps of writing an image.
    Write,
    /// Changes of the network, before and after each.
    Network,
    /// Steps of looking at queues of sockets.
    Queue,
    /// Steps of rebuilding a task.
    Restore,
}

/// A point is passed.
pub fn point(kind: Kind) {
    if reached(kind) {
        // SAFETY: kill and getpid touch no memory.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}

/// A point is passed; says whether what comes is to fail.
pub fn fails(kind: Kind) -> bool {
    reached(kind)
}

#[cfg(not(debug_assertions))]
fn reached(_: Kind) -> bool {
    false
}

#[cfg(debug_assertions)]
fn reached(kind: Kind) -> bool {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    // The one global of this program: it counts over all threads of a run
    // that is going to be killed.
    static WANTED: OnceLock<Option<(Kind, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    match WANTED.get_or_init(wanted) {
        Some((wanted, at)) if *wanted == kind => PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *at,
        _ => false,
    }
}

#[cfg(debug_assertions)]
fn wanted() -> Option<(Kind, u64)> {
    let value = std::env::var("ICECORE_FAULT").ok()?;
    let (kind, at) = value.split_once(':')?;
    let kind = match kind {
        "ptrace" => Kind::Ptrace,
        "write" => Kind::Write,
        "network" => Kind::Network,
        "queue" => Kind::Queue,
        "restore" => Kind::Restore,
        _ => return None,
    };
    Some((kind, at.parse().ok()?))
}
