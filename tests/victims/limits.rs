//! Resource limits, also such as are in the way of a dump or a restore.

use std::os::fd::AsRawFd;

use crate::harness::{Stage, Victim};
use crate::sys::{at, call, same, to};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("limits", limits),
        Victim::new("oom-score", oom_score).check(|outside| match outside.get("oom_score_adj") {
            Some(text) if text.trim() == "321" => Ok(()),
            other => Err(format!("oom_score_adj is {other:?}")),
        }),
    ]
}

type Limit = [u64; 2];

fn limit(resource: u32, new: Option<Limit>) -> Result<Limit, String> {
    let mut old: Limit = [0; 2];
    let new_at = new.as_ref().map_or(0, at);
    let args = [0, resource.into(), new_at, to(&mut old)];
    call("prlimit", libc::SYS_prlimit64, &args)?;
    Ok(old)
}

/// Bytes of address space in use.
fn address_space() -> Result<u64, String> {
    let status = std::fs::read_to_string("/proc/self/statm").map_err(|e| e.to_string())?;
    let pages = status.split(' ').next().and_then(|p| p.parse::<u64>().ok());
    Ok(pages.ok_or("statm")? * 4096)
}

fn limits(stage: &mut Stage) -> Result<(), String> {
    let file = std::fs::File::open("/dev/null").map_err(|e| e.to_string())?;
    for number in 20..60 {
        let args = [file.as_raw_fd() as u64, libc::F_DUPFD as u64, number];
        call("fcntl", libc::SYS_fcntl, &args)?;
    }
    drop(file);
    let space = address_space()?;
    for resource in 0..16 {
        let [_, hard] = limit(resource, None)?;
        let new = match resource {
            // Below the descriptors that are open.
            libc::RLIMIT_NOFILE => [6, 50],
            libc::RLIMIT_AS => [space + (48 << 20), hard],
            libc::RLIMIT_SIGPENDING => [0, 0],
            libc::RLIMIT_NPROC => [1, hard],
            libc::RLIMIT_FSIZE => [1 << 20, 1 << 21],
            libc::RLIMIT_CORE => [0, 0],
            libc::RLIMIT_NICE | libc::RLIMIT_RTPRIO => [0, 0],
            _ => [hard / 2, hard - hard / 4],
        };
        limit(resource, Some(new))?;
    }
    let before: Vec<Limit> = (0..16).map(|r| limit(r, None)).collect::<Result<_, _>>()?;
    while stage.next()? {
        let now: Vec<Limit> = (0..16).map(|r| limit(r, None)).collect::<Result<_, _>>()?;
        same("limits", &now, &before)?;
    }
    Ok(())
}

fn oom_score(stage: &mut Stage) -> Result<(), String> {
    std::fs::write("/proc/self/oom_score_adj", "321").map_err(|e| e.to_string())?;
    while stage.next()? {}
    Ok(())
}
