//! What has its other end outside the dump, or is of a kind that is not
//! carried: said with everything one needs to find the other end.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use icecore_images::files::{FileKind, kind_of_mode};

use super::DumpContext;
use super::descriptor::Descriptor;
use super::descriptors::named;
use super::members::Members;
use super::socket;
use crate::error::DumpError;

/// Somebody who holds a pipe or socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pid: u32,
    fd: u32,
}

/// A process by number and command.
pub(super) fn process(pid: u32) -> String {
    let comm = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    match comm.trim_ascii() {
        b"" => format!("pid {pid}"),
        comm => format!("pid {pid} ({})", icecore_images::ByteString::from(comm)),
    }
}

/// Holders in a sentence: each process once, the first few of them.
pub(super) fn list(holders: &[Holder]) -> String {
    const SHOWN: usize = 4;
    let mut by_pid: Vec<(u32, Vec<String>)> = Vec::new();
    for holder in holders {
        let fd = holder.fd.to_string();
        match by_pid.last_mut() {
            Some((pid, fds)) if *pid == holder.pid => fds.push(fd),
            _ => by_pid.push((holder.pid, vec![fd])),
        }
    }
    let named = by_pid.iter().take(SHOWN);
    let mut text: Vec<String> = named
        .map(|(pid, fds)| format!("{} as fd {}", process(*pid), fds.join(", ")))
        .collect();
    if by_pid.len() > SHOWN {
        text.push(format!("{} more", by_pid.len() - SHOWN));
    }
    text.join(" and ")
}

/// Who else holds these pipes or sockets, each given by device and inode and by what its
/// link says: everybody but the tasks of the dump, and but `ours` among our own
/// numbers.
pub(super) fn holders(
    objects: &[((u64, u64), &str)],
    members: &Members,
    ours: &HashSet<u32>,
) -> HashMap<(u64, u64), Vec<Holder>> {
    let names: HashSet<&[u8]> = objects.iter().map(|(_, name)| name.as_bytes()).collect();
    let keys: HashSet<(u64, u64)> = objects.iter().map(|(key, _)| *key).collect();
    let own_pid = std::process::id();
    let mut found: HashMap<_, Vec<Holder>> = HashMap::new();
    let others = numbers("/proc").filter(|&pid| !members.has_process(pid));
    for pid in others.filter(|&pid| !is_guardian(pid)) {
        for fd in numbers(&format!("/proc/{pid}/fd")) {
            let link = format!("/proc/{pid}/fd/{fd}");
            let shown = std::fs::read_link(&link).unwrap_or_default();
            let ours = pid == own_pid && (ours.contains(&fd) || members.ours.contains(&fd));
            if ours || !names.contains(shown.as_os_str().as_bytes()) {
                continue;
            }
            let Ok(meta) = std::fs::metadata(&link) else {
                continue;
            };
            let key = (meta.dev(), meta.ino());
            if keys.contains(&key) {
                found.entry(key).or_default().push(Holder { pid, fd });
            }
        }
    }
    found
}

/// Whether it is the guardian of an icecore, which has the target's sockets for
/// as long as that icecore lives and a moment longer: one that was killed just
/// now is no reason to refuse.
fn is_guardian(pid: u32) -> bool {
    let comm = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    comm.trim_ascii_end() == crate::tracer::GUARDIAN_NAME.to_bytes()
        && std::fs::metadata(format!("/proc/{pid}/exe"))
            .is_ok_and(|exe| std::fs::metadata("/proc/self/exe").is_ok_and(|own| same(&exe, &own)))
}

fn same(a: &std::fs::Metadata, b: &std::fs::Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

fn numbers(dir: &str) -> impl Iterator<Item = u32> + use<> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A socket.
pub(super) fn refuse_socket(
    ctx: &mut DumpContext<'_>,
    d: &Descriptor,
) -> Result<Option<FileKind>, DumpError> {
    let socket = socket::describe(d.duplicate()?, d.pid);
    d.refuse(ctx, socket.problem, Some(&socket.help));
    Ok(None)
}

/// A device that carries state.
pub(super) fn refuse_device(
    ctx: &mut DumpContext<'_>,
    d: &Descriptor,
) -> Result<Option<FileKind>, DumpError> {
    let (major, minor) = (libc::major(d.meta.rdev()), libc::minor(d.meta.rdev()));
    let problem = format!(
        "character device {} ({major}:{minor}) carries state",
        named(d)
    );
    let help = "let the program close it";
    d.refuse(ctx, problem, Some(help));
    Ok(None)
}

/// An anonymous inode of a kind that is not carried.
pub(super) fn refuse_anonymous(
    ctx: &mut DumpContext<'_>,
    d: &Descriptor,
) -> Result<Option<FileKind>, DumpError> {
    let name = d
        .shown_bytes()
        .strip_prefix(b"anon_inode:")
        .unwrap_or_default();
    let what = match name {
        b"[io_uring]" => "an io_uring instance",
        b"[fanotify]" | b"fanotify" => "a fanotify group",
        b"[userfaultfd]" => "a userfaultfd",
        b"[perf_event]" => "a performance counter",
        b"[fscontext]" => "a file system being configured",
        b"bpf-map" | b"bpf-prog" | b"bpf_link" | b"bpf_iter" => "a BPF object",
        b"seccomp notify" => "a seccomp listener",
        b"[landlock-ruleset]" => "a Landlock ruleset",
        b"sync_file" | b"dmabuf" => "a buffer of a device",
        _ if name.starts_with(b"kvm") => "a virtual machine",
        _ => "an object of a kind that icecore does not know",
    };
    let problem = format!("{what} ({})", named(d));
    d.refuse(ctx, problem, Some("let the program close it"));
    Ok(None)
}

/// Anything else.
pub(super) fn refuse_other(
    ctx: &mut DumpContext<'_>,
    d: &Descriptor,
) -> Result<Option<FileKind>, DumpError> {
    let problem = format!("{} {}", kind_of_mode(d.meta.mode()), named(d));
    d.refuse(ctx, problem, Some("let the program close it"));
    Ok(None)
}
