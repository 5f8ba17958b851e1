//! Numbers as words.

use icecore_images::regular::FileRef;
use nix::sys::signal::Signal;

/// `1 thread`, `2 threads`.
pub(super) fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// ` (a, b)`, or nothing.
pub(super) fn in_brackets(all: &[String]) -> String {
    match all.is_empty() {
        true => String::new(),
        false => format!(" ({})", all.join(", ")),
    }
}

/// `SIGTERM`, `SIGRTMIN+3`.
pub(super) fn signal(number: u32) -> String {
    let known = i32::try_from(number)
        .ok()
        .and_then(|n| Signal::try_from(n).ok());
    match (known, number) {
        (Some(signal), _) => signal.as_str().to_owned(),
        // 32 and 33 are the C library's own.
        (None, 34) => "SIGRTMIN".to_owned(),
        (None, 35..=64) => format!("SIGRTMIN+{}", number - 34),
        (None, _) => format!("signal {number}"),
    }
}

/// The signals of a mask.
pub(super) fn signals(mask: u64) -> String {
    let names: Vec<String> = (1..=64)
        .filter(|n| mask >> (n - 1) & 1 == 1)
        .map(signal)
        .collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(" "),
    }
}

/// A time in the unit that fits it.
pub(super) fn duration(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

/// A system call: those that threads sleep in by name, others by number.
pub(super) fn system_call(number: u64) -> String {
    let name = match number {
        0 => "read",
        1 => "write",
        7 => "poll",
        23 => "select",
        34 => "pause",
        35 => "nanosleep",
        42 => "connect",
        43 => "accept",
        44 => "sendto",
        45 => "recvfrom",
        47 => "recvmsg",
        61 => "wait4",
        65 => "semop",
        128 => "rt_sigtimedwait",
        130 => "rt_sigsuspend",
        202 => "futex",
        208 => "io_getevents",
        220 => "semtimedop",
        230 => "clock_nanosleep",
        232 => "epoll_wait",
        247 => "waitid",
        270 => "pselect6",
        271 => "ppoll",
        281 => "epoll_pwait",
        288 => "accept4",
        426 => "io_uring_enter",
        441 => "epoll_pwait2",
        449 => "futex_waitv",
        n => return format!("system call {n}"),
    };
    name.to_owned()
}

/// CLOCK_*.
pub(super) fn clock(id: i32) -> String {
    let name = match id {
        0 => "REALTIME",
        1 => "MONOTONIC",
        2 => "PROCESS_CPUTIME_ID",
        3 => "THREAD_CPUTIME_ID",
        7 => "BOOTTIME",
        8 => "REALTIME_ALARM",
        9 => "BOOTTIME_ALARM",
        11 => "TAI",
        n => return format!("clock {n}"),
    };
    format!("CLOCK_{name}")
}

/// A file's path, and whether the file is in the image.
pub(super) fn file(file: &FileRef) -> String {
    match file.ghost {
        Some(_) => format!("{} (deleted, in the image)", file.path),
        None => file.path.to_string(),
    }
}
