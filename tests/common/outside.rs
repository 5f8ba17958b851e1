//! A process as it looks from outside, for comparing before with after.
//!
//! Everything becomes one sorted table of names and values (`fd/3/link`,
//! `map/7f…`, `status/SigBlk`, `thread/812/comm`, `limits/…`): two snapshots
//! differ where their tables do. What the kernel numbers anew at each creation
//! (inodes of pipes, mount ids) is normalised; what else may change is allowed
//! by pattern.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use icecore::kernel::kcmp;

use super::icecore::lossy;
use super::tree;

/// A snapshot of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outside {
    facts: BTreeMap<String, String>,
}

/// Lines of `status` that describe the process rather than its use of the
/// machine.
const STATUS: &[&str] = &[
    "Name",
    "Umask",
    "Tgid",
    "Pid",
    "TracerPid",
    "Uid",
    "Gid",
    "Groups",
    "NStgid",
    "NSpid",
    "NSpgid",
    "NSsid",
    "VmLck",
    "Threads",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Speculation_Store_Bypass",
    "SpeculationIndirectBranch",
    "Cpus_allowed",
    "Mems_allowed",
    "THP_enabled",
    "untag_mask",
    "CoreDumping",
];

/// Files of `/proc/PID` compared whole.
const FILES: &[&str] = &[
    "cmdline",
    "environ",
    "auxv",
    "comm",
    "limits",
    "oom_score_adj",
    "loginuid",
    "coredump_filter",
    "personality",
    "cgroup",
    "timers",
    "setgroups",
];

/// Links of `/proc/PID` compared by where they lead.
const LINKS: &[&str] = &[
    "exe", "cwd", "root", "ns/mnt", "ns/net", "ns/ipc", "ns/uts", "ns/user",
];

/// Files of `/proc/PID/task/TID` compared whole.
const THREAD_FILES: &[&str] = &["comm", "timerslack_ns"];

impl Outside {
    /// Looks at process `pid` and everything below it, whose facts have names
    /// that begin with `task/PID/`.
    pub(crate) fn of(pid: u32) -> Result<Self, String> {
        let mut facts = BTreeMap::new();
        let mut inodes = Vec::new();
        process(pid, &mut facts, &mut inodes)?;
        let below = tree::below(pid);
        for &pid in &below {
            let mut one = BTreeMap::new();
            if !tree::is_dead(pid) {
                process(pid, &mut one, &mut inodes)?;
            }
            let named = one.into_iter();
            facts.extend(named.map(|(name, value)| (format!("task/{pid}/{name}"), value)));
            facts.insert(format!("task/{pid}/kin"), kin(pid));
        }
        if !below.is_empty() {
            let mut all: Vec<u32> = below.into_iter().filter(|&p| !tree::is_dead(p)).collect();
            all.insert(0, pid);
            shared(&all, &mut facts)?;
        }
        Ok(Self { facts })
    }

    /// The value of a fact.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.facts.get(name).map(String::as_str)
    }

    /// Facts whose names match `pattern` (`*` stands for anything).
    pub(crate) fn matching<'a>(
        &'a self,
        pattern: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let hits = self
            .facts
            .iter()
            .filter(move |(name, _)| matches(pattern, name));
        hits.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// An error that lists every fact which differs from `before` and whose
    /// name matches none of `allowed`.
    pub(crate) fn same_as(&self, before: &Self, allowed: &[String]) -> Result<(), String> {
        let names = self.facts.keys().chain(before.facts.keys());
        let names: std::collections::BTreeSet<&String> = names.collect();
        let mut differences = Vec::new();
        for name in names {
            let (was, is) = (before.facts.get(name), self.facts.get(name));
            if was != is && !allowed.iter().any(|pattern| matches(pattern, name)) {
                differences.push(format!("  {name}: was {was:?}, is {is:?}"));
            }
        }
        match differences.is_empty() {
            true => Ok(()),
            false => Err(format!("seen from outside:\n{}", differences.join("\n"))),
        }
    }
}

/// Facts of one process.
fn process(
    pid: u32,
    facts: &mut BTreeMap<String, String>,
    inodes: &mut Vec<String>,
) -> Result<(), String> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    for file in FILES {
        facts.insert((*file).to_owned(), lossy(&proc.join(file)));
    }
    // Each session has an autogroup of its own number.
    let autogroup = lossy(&proc.join("autogroup"));
    let nice = autogroup.split_once(' ').map_or("", |(_, nice)| nice);
    facts.insert("autogroup".to_owned(), nice.to_owned());
    for link in LINKS {
        facts.insert((*link).to_owned(), link_of(&proc.join(link)));
    }
    status(&proc, "status", facts);
    stat(&proc, "stat", facts);
    descriptors(&proc, facts, inodes)?;
    maps(&proc, facts, inodes)?;
    threads(&proc, facts)
}

/// Where a process is in the tree, and how it ended if it has.
fn kin(pid: u32) -> String {
    let fields = tree::stat(pid).unwrap_or_default();
    let field = |number: usize| fields.get(number - 3).cloned().unwrap_or_default();
    let state = match field(3).as_str() {
        "Z" => format!("ended with {}", field(52)),
        "T" => "stopped".to_owned(),
        _ => "alive".to_owned(),
    };
    format!(
        "{state}, parent {}, group {}, session {}, exit signal {}",
        field(4),
        field(5),
        field(6),
        field(38)
    )
}

/// What processes have in common: for each the first that has the same.
fn shared(all: &[u32], facts: &mut BTreeMap<String, String>) -> Result<(), String> {
    type Same = fn(u32, u32) -> std::io::Result<bool>;
    let kinds: [(&str, Same); 4] = [
        ("memory", kcmp::same_memory),
        ("table", kcmp::same_descriptor_table),
        ("fs", kcmp::same_fs),
        ("actions", kcmp::same_signal_handlers),
    ];
    for (kind, same) in kinds {
        let mut first: Vec<u32> = Vec::new();
        for &pid in all {
            let mut equal = None;
            for &other in &first {
                if same(other, pid).map_err(|e| format!("compare {pid}: {e}"))? {
                    equal = Some(other);
                    break;
                }
            }
            let owner = equal.unwrap_or(pid);
            facts.insert(format!("share/{pid}/{kind}"), owner.to_string());
            if equal.is_none() {
                first.push(pid);
            }
        }
    }
    shared_files(all, facts)
}

/// Which descriptors refer to the same open file description.
fn shared_files(all: &[u32], facts: &mut BTreeMap<String, String>) -> Result<(), String> {
    let mut first: BTreeMap<PathBuf, Vec<(u32, u32)>> = BTreeMap::new();
    for &pid in all {
        for fd in numbers(&PathBuf::from(format!("/proc/{pid}/fd")))? {
            let Ok(link) = fs::read_link(format!("/proc/{pid}/fd/{fd}")) else {
                continue;
            };
            let known = first.entry(link).or_default();
            let same = |other: &(u32, u32)| {
                kcmp::files(*other, (pid, fd)).is_ok_and(std::cmp::Ordering::is_eq)
            };
            let owner = match known.iter().find(|other| same(other)) {
                Some(owner) => *owner,
                None => {
                    known.push((pid, fd));
                    (pid, fd)
                }
            };
            let (name, owner) = (format!("share/{pid}/fd/{fd}"), format!("{owner:?}"));
            facts.insert(name, owner);
        }
    }
    Ok(())
}

/// Whether `name` matches `pattern`, in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(rest) = name.strip_prefix(head) else {
        return false;
    };
    let mut starts = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    starts.any(|at| matches(tail, &rest[at..]))
}

fn status(dir: &Path, prefix: &str, facts: &mut BTreeMap<String, String>) {
    for line in lossy(&dir.join("status")).lines() {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        if STATUS.contains(&name) {
            facts.insert(format!("{prefix}/{name}"), value.trim().to_owned());
        }
        if name == "State" {
            let stopped = value.trim_start().starts_with(['T', 't']);
            facts.insert(format!("{prefix}/stopped"), stopped.to_string());
        }
    }
}

/// Scheduling and job-control fields of `stat`, by their numbers in proc(5).
fn stat(dir: &Path, prefix: &str, facts: &mut BTreeMap<String, String>) {
    let text = lossy(&dir.join("stat"));
    let after_comm = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after_comm.split_whitespace().collect();
    let named = [
        (5, "pgrp"),
        (6, "session"),
        (7, "tty"),
        // Not the 18th, the priority in effect: the kernel lends and takes it.
        (19, "nice"),
        (38, "exit_signal"),
        (40, "rt_priority"),
        (41, "policy"),
        (45, "start_data"),
        (46, "end_data"),
        (47, "start_brk"),
        (48, "arg_start"),
        (49, "arg_end"),
        (50, "env_start"),
        (51, "env_end"),
        (26, "start_code"),
        (27, "end_code"),
        (28, "start_stack"),
    ];
    for (number, name) in named {
        let value = fields.get(number - 3).copied().unwrap_or("").to_owned();
        facts.insert(format!("{prefix}/{name}"), value);
    }
}

fn descriptors(
    proc: &Path,
    facts: &mut BTreeMap<String, String>,
    inodes: &mut Vec<String>,
) -> Result<(), String> {
    for fd in numbers(&proc.join("fd"))? {
        let path = proc.join(format!("fd/{fd}"));
        let link = numbered_anew(&link_of(&path), inodes);
        let nameless = link.ends_with(NAMELESS) && path.is_file();
        let link = if nameless {
            nameless_anew(&link, inodes)
        } else {
            link
        };
        facts.insert(format!("fd/{fd}/link"), link);
        let info = lossy(&proc.join(format!("fdinfo/{fd}")));
        for (i, line) in info.lines().enumerate() {
            if let Some((name, mut value)) = fdinfo_fact(i, line) {
                if nameless && name == "flags" {
                    value = without_nofollow(&value);
                }
                facts.insert(format!("fd/{fd}/{name}"), value);
            }
        }
    }
    Ok(())
}

/// Line number `i` of an fdinfo file; `None` for what the kernel numbers anew.
fn fdinfo_fact(i: usize, line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    let value = value.trim();
    match name {
        "mnt_id" | "ino" | "eventfd-id" => None,
        "it_value" => Some((name.to_owned(), format!("armed: {}", value != "(0, 0)"))),
        "pos" | "flags" | "ticks" => Some((name.to_owned(), value.to_owned())),
        // Registrations come in no particular order; what follows `pos:` are
        // the inode and device of the file.
        "tfd" => {
            let watched = value.split(" pos:").next().unwrap_or(value);
            let (target, how) = watched.split_once(' ').unwrap_or((watched, ""));
            Some((format!("tfd {target}"), how.trim().to_owned()))
        }
        // The file is what the link says; its inode is new if it has no name.
        "lock" => {
            let words = value.split_whitespace();
            let rest: Vec<&str> = words
                .filter(|word| word.matches(':').count() != 2)
                .collect();
            Some((format!("{name}#{i}"), rest.join(" ")))
        }
        _ => Some((format!("{name}#{i}"), value.to_owned())),
    }
}

/// `pipe:[81234]` with the inode replaced by its rank among those seen: which
/// descriptors share a pipe stays visible, its number does not matter.
fn numbered_anew(link: &str, inodes: &mut Vec<String>) -> String {
    let kernel_object = ["pipe:[", "socket:["].iter().any(|p| link.starts_with(p));
    if !kernel_object {
        return link.to_owned();
    }
    let rank = rank(link, inodes);
    format!("{}:#{rank}", link.split(':').next().unwrap_or(link))
}

/// What ends the links of files without a name.
const NAMELESS: &str = " (deleted)";

/// The same for the last name of a nameless file, which comes back with another:
/// which of them it is stays visible.
fn nameless_anew(link: &str, inodes: &mut Vec<String>) -> String {
    let rank = rank(link, inodes);
    let dir = link.rsplit_once('/').map_or("", |(dir, _)| dir);
    format!("{dir}/#{rank}{NAMELESS}")
}

/// Flags but O_NOFOLLOW, which cannot be given to a file opened without a name.
fn without_nofollow(flags: &str) -> String {
    let number = u32::from_str_radix(flags, 8).unwrap_or(u32::MAX);
    format!("0{:o}", number & !(libc::O_NOFOLLOW as u32))
}

/// The place of `name` among those seen.
fn rank(name: &str, seen: &mut Vec<String>) -> usize {
    seen.iter().position(|s| s == name).unwrap_or_else(|| {
        seen.push(name.to_owned());
        seen.len() - 1
    })
}

/// An area of memory as compared: neighbours that differ in nothing count as
/// one, as the kernel merges them or not as it likes.
struct Area {
    start: u64,
    end: u64,
    offset: u64,
    /// Permissions, path and flags.
    kind: String,
    of_file: bool,
}

fn maps(
    proc: &Path,
    facts: &mut BTreeMap<String, String>,
    inodes: &mut Vec<String>,
) -> Result<(), String> {
    let mut areas: Vec<Area> = Vec::new();
    let text = lossy(&proc.join("smaps"));
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let mut area = area(line).ok_or_else(|| format!("not an area: {line:?}"))?;
        let of_object = ["/memfd:", "/SYSV", "/dev/zero"];
        if let Some((permissions, path)) = area.kind.split_once(' ')
            && path.ends_with(NAMELESS)
            && !of_object.iter().any(|object| path.starts_with(object))
        {
            area.kind = format!("{permissions} {}", nameless_anew(path, inodes));
        }
        while let Some(detail) = lines.next_if(|l| area_start(l).is_none()) {
            if let Some(flags) = detail.strip_prefix("VmFlags:") {
                area.kind += &flags_that_matter(flags);
            }
        }
        match areas.last_mut() {
            Some(last) if joins(last, &area) => last.end = area.end,
            _ => areas.push(area),
        }
    }
    for Area {
        start,
        end,
        offset,
        kind,
        of_file,
    } in areas
    {
        let offset = if of_file {
            format!(" at {offset:#x}")
        } else {
            String::new()
        };
        facts.insert(format!("map/{start:x}-{end:x}"), format!("{kind}{offset}"));
    }
    Ok(())
}

fn joins(last: &Area, next: &Area) -> bool {
    let follows = last.end == next.start && last.kind == next.kind;
    follows && (!last.of_file || last.offset + (last.end - last.start) == next.offset)
}

fn area_start(line: &str) -> Option<(u64, u64)> {
    let (start, rest) = line.split_once('-')?;
    let (end, _) = rest.split_once(' ')?;
    let number = |hex| u64::from_str_radix(hex, 16).ok();
    Some((number(start)?, number(end)?))
}

fn area(line: &str) -> Option<Area> {
    let (start, end) = area_start(line)?;
    let mut words = line.splitn(6, ' ').skip(1);
    let permissions = words.next()?;
    let offset = u64::from_str_radix(words.next()?, 16).ok()?;
    let path = words.nth(2).unwrap_or("").trim();
    Some(Area {
        start,
        end,
        offset,
        kind: format!("{permissions} {path}"),
        of_file: path.starts_with('/'),
    })
}

/// Flags but those that follow from how and when an area was made: sd (soft
/// dirty), nr and ac (accounting).
fn flags_that_matter(flags: &str) -> String {
    let kept = flags
        .split_whitespace()
        .filter(|f| !["sd", "nr", "ac"].contains(f));
    kept.fold(String::new(), |all, flag| all + " " + flag)
}

fn threads(proc: &Path, facts: &mut BTreeMap<String, String>) -> Result<(), String> {
    for tid in numbers(&proc.join("task"))? {
        let dir = proc.join(format!("task/{tid}"));
        let prefix = format!("thread/{tid}");
        for file in THREAD_FILES {
            facts.insert(format!("{prefix}/{file}"), lossy(&dir.join(file)));
        }
        status(&dir, &format!("{prefix}/status"), facts);
        stat(&dir, &format!("{prefix}/stat"), facts);
    }
    Ok(())
}

fn numbers(dir: &Path) -> Result<Vec<u32>, String> {
    let entries = fs::read_dir(dir).map_err(|e| format!("list {}: {e}", dir.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut numbers: Vec<u32> = names.filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn link_of(path: &Path) -> String {
    match fs::read_link(path) {
        Ok(target) => target.to_string_lossy().into_owned(),
        Err(e) => format!("unreadable: {e}"),
    }
}
