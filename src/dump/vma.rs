//! One area of an address space: what lies behind it, and its attributes.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use icecore_images::mm::{Backing, Vma, VmaFlags};
use rustix::fs::{Mode, OFlags};

use super::DumpContext;
use super::file_ref::{self, Link};
use super::shmem::{self, Found};
use crate::blocker::Place;
use crate::error::DumpError;
use crate::kernel::maps::Area;

/// Why an area cannot be carried.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    problem: String,
    help: Option<&'static str>,
}

impl Refusal {
    fn new(problem: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            help: None,
        }
    }
}

/// Describes an area (with its details) of task `pid`, read through its live
/// thread `tid`; `None` if it cannot be carried, which has then been noted.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    pid: u32,
    tid: u32,
    area: &Area,
) -> Result<Option<Vma>, DumpError> {
    let place = Place::Area {
        pid,
        start: area.start,
        end: area.end,
    };
    let described = match (flags(area), classify(area)) {
        (Ok(flags), Ok(kind)) => Ok((flags, kind)),
        (Err(refusal), _) | (_, Err(refusal)) => Err(refusal),
    };
    let (flags, kind) = match described {
        Ok(described) => described,
        Err(Refusal { problem, help }) => {
            ctx.block(place, problem, help);
            return Ok(None);
        }
    };
    let backing = match kind {
        Kind::Known(backing) => Some(backing),
        Kind::Linked => linked(ctx, tid, place, area)?,
    };
    Ok(backing.map(|backing| vma(area, flags, backing)))
}

fn vma(area: &Area, flags: VmaFlags, backing: Backing) -> Vma {
    Vma {
        start: area.start,
        end: area.end,
        prot: area.prot,
        shared: area.shared,
        backing,
        flags,
        pkey: area.details.as_ref().map_or(0, |d| d.pkey),
        numa: None,
        anon_name: anon_name(area).map(Into::into),
        guards: Vec::new(),
    }
}

/// What lies behind an area, as far as its line tells.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Known(Backing),
    /// The link in `map_files` leads to it.
    Linked,
}

fn classify(area: &Area) -> Result<Kind, Refusal> {
    if !area.name.starts_with(b"/") {
        return special(&area.name, area.inode).map(Kind::Known);
    }
    let name = String::from_utf8_lossy(&area.name);
    if area.name == b"/anon_hugepage (deleted)" && !area.shared {
        let page_size = area.details.as_ref().map_or(0, |d| d.kernel_page_size);
        return Ok(Kind::Known(Backing::AnonymousHuge { page_size }));
    }
    if area.name.starts_with(b"/[aio]") {
        return Err(Refusal::new(
            "asynchronous I/O ring (io_setup) is not supported",
        ));
    }
    if area.name.starts_with(b"/secretmem") {
        return Err(Refusal::new(
            "secret memory (memfd_secret) cannot be read by anyone but its owner",
        ));
    }
    if area.has(b"pf") || area.has(b"io") {
        return Err(Refusal::new(format!(
            "mapping of device memory ({name}) is not supported"
        )));
    }
    Ok(Kind::Linked)
}

/// Areas without a path.
fn special(name: &[u8], inode: u64) -> Result<Backing, Refusal> {
    let backing = match name {
        b"[vdso]" => Backing::Vdso,
        b"[vvar]" => Backing::Vvar,
        b"[vvar_vclock]" => Backing::VvarVclock,
        b"[vsyscall]" => Backing::Vsyscall,
        b"" | b"[heap]" | b"[stack]" if inode == 0 => Backing::Anonymous,
        _ if name.starts_with(b"[anon:") && inode == 0 => Backing::Anonymous,
        b"[uprobes]" => {
            return Err(Refusal {
                problem: "[uprobes] area: a uprobe is or was attached to the task".to_owned(),
                help: Some("detach the tracing tool and start the task without it"),
            });
        }
        _ => {
            let name = String::from_utf8_lossy(name);
            return Err(Refusal::new(format!("mapping of {name} is not supported")));
        }
    };
    Ok(backing)
}

/// The name given by PR_SET_VMA_ANON_NAME.
fn anon_name(area: &Area) -> Option<Vec<u8>> {
    let named = area
        .name
        .strip_prefix(b"[anon:")
        .or_else(|| area.name.strip_prefix(b"[anon_shmem:"))?;
    named.strip_suffix(b"]").map(<[u8]>::to_vec)
}

/// Asks the kernel's link what file or object it is.
fn linked(
    ctx: &mut DumpContext<'_>,
    tid: u32,
    place: Place,
    area: &Area,
) -> Result<Option<Backing>, DumpError> {
    let reached = reach(tid, area).map_err(|source| DumpError::Read {
        pid: tid,
        what: format!("the file mapped at {:#x}", area.start),
        source,
    })?;
    let Some(reached) = reached else {
        let name = String::from_utf8_lossy(&area.name);
        let problem = format!("the mapped file {name} cannot be reached");
        ctx.block(place, problem, Some("CAP_CHECKPOINT_RESTORE"));
        return Ok(None);
    };
    let link = Link {
        pid: tid,
        place: &place,
        path: &reached.link,
    };
    // VM_SHARED: the open behind a shared area allows writing. Seals take
    // VM_MAYWRITE away all the same.
    let (offset, writable) = (area.offset, area.has(b"sh"));
    match shmem::describe(ctx, link)? {
        Found::Object(id) => {
            return Ok(Some(Backing::Shmem {
                id,
                offset,
                writable,
                sealed: writable && !area.has(b"mw"),
            }));
        }
        Found::Refused => return Ok(None),
        Found::NotShared => {}
    }
    let Some(file) = file_ref::describe(ctx, link)? else {
        return Ok(None);
    };
    if let Some(problem) = unsuitable(&file, area) {
        ctx.block(place, problem, None);
        return Ok(None);
    }
    Ok(Some(Backing::File {
        file,
        offset,
        writable,
    }))
}

/// A link of the kernel's that leads to the very file that is mapped.
struct Reached {
    link: PathBuf,
    /// What keeps the link, where it is one of our own.
    _open: Option<OwnedFd>,
}

/// The link in `map_files` leads there, but to follow it takes privilege; to
/// read it does not, and mostly its name still leads to the same file.
fn reach(tid: u32, area: &Area) -> io::Result<Option<Reached>> {
    let link = PathBuf::from(format!("/proc/{tid}/map_files/{}", area.map_files_name()));
    match std::fs::metadata(&link) {
        Ok(_) => return Ok(Some(Reached { link, _open: None })),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
        Err(e) => return Err(e),
    }
    let name = std::fs::read_link(&link)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let Ok(open) = rustix::fs::openat(rustix::fs::CWD, name, flags, Mode::empty()) else {
        return Ok(None);
    };
    let stat = rustix::fs::fstat(&open)?;
    let link = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
    Ok(
        ((stat.st_dev, stat.st_ino) == (area.device, area.inode)).then_some(Reached {
            link,
            _open: Some(open),
        }),
    )
}

const DEV_ZERO: &[u8] = b"/dev/zero";

/// Files whose mappings hold more than their contents.
fn unsuitable(file: &icecore_images::regular::FileRef, area: &Area) -> Option<String> {
    let regular = file.mode & libc::S_IFMT == libc::S_IFREG;
    let zeroes = !area.shared && file.path.0 == DEV_ZERO;
    let kind = icecore_images::files::kind_of_mode(file.mode);
    (!regular && !zeroes).then(|| format!("mapping of {kind} {} is not supported", file.path))
}

/// Takes apart VmFlags. A flag nobody knows could mean anything: refused by
/// name.
fn flags(area: &Area) -> Result<VmaFlags, Refusal> {
    let mut flags = VmaFlags::default();
    let Some(details) = &area.details else {
        return Err(Refusal::new("smaps does not show this area"));
    };
    // The kernel's own areas: their flags are its business and come with them.
    if matches!(
        area.name.as_slice(),
        b"[vdso]" | b"[vvar]" | b"[vvar_vclock]" | b"[vsyscall]"
    ) {
        return Ok(flags);
    }
    for flag in &details.vm_flags {
        set_flag(&mut flags, flag)?;
    }
    Ok(flags)
}

fn set_flag(flags: &mut VmaFlags, flag: &[u8; 2]) -> Result<(), Refusal> {
    match flag {
        // Protections, sharing, statistics and soft-dirty marks, or told by
        // other means: device memory, huge pages, guard pages.
        b"rd" | b"wr" | b"ex" | b"sh" | b"mr" | b"mw" | b"me" | b"ms" => {}
        b"de" | b"nl" | b"ar" | b"sd" | b"mm" | b"ht" | b"gu" | b"pf" | b"io" | b"dw" => {}
        b"gd" => flags.grows_down = true,
        b"nr" => flags.no_reserve = true,
        b"lo" => flags.locked = true,
        b"lf" => flags.lock_on_fault = true,
        b"hg" => flags.huge_page = true,
        b"nh" => flags.no_huge_page = true,
        b"mg" => flags.mergeable = true,
        b"dc" => flags.dont_fork = true,
        b"wf" => flags.wipe_on_fork = true,
        b"dd" => flags.dont_dump = true,
        b"sr" => flags.sequential = true,
        b"rr" => flags.random = true,
        b"sl" => flags.sealed = true,
        b"dp" => flags.droppable = true,
        b"sf" => flags.sync = true,
        b"ac" => flags.account = true,
        b"um" | b"uw" | b"ui" => {
            return Err(Refusal::new(
                "area is registered with userfaultfd, which is not supported",
            ));
        }
        b"ss" => return Err(Refusal::new("shadow stack is not supported")),
        _ => {
            let name = String::from_utf8_lossy(flag);
            return Err(Refusal::new(format!("area has the unknown flag {name:?}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::maps;

    fn area(line: &str, flags: &str) -> Area {
        let text = format!("{line}\nKernelPageSize: 2048 kB\nVmFlags: {flags}\n");
        maps::parse(text.as_bytes()).unwrap().remove(0)
    }

    fn named(name: &str) -> Area {
        area(&format!("1000-3000 rw-p 0 00:00 0 {name}"), "rd wr ac")
    }

    #[test]
    fn names_decide() {
        for name in ["", "[heap]", "[stack]", "[anon:arena]"] {
            assert_eq!(classify(&named(name)), Ok(Kind::Known(Backing::Anonymous)));
        }
        assert_eq!(classify(&named("[vvar]")), Ok(Kind::Known(Backing::Vvar)));
        let huge = classify(&named("/anon_hugepage (deleted)"));
        let page_size = 2 << 20;
        assert_eq!(huge, Ok(Kind::Known(Backing::AnonymousHuge { page_size })));
        assert_eq!(classify(&named("/usr/bin/[vdso]")), Ok(Kind::Linked));
    }

    #[test]
    fn what_cannot_be_carried_is_named() {
        for (name, text) in [
            ("[uprobes]", "[uprobes]"),
            ("[something new]", "[something new]"),
            ("anon_inode:[io_uring]", "io_uring"),
            ("socket:[17]", "socket:[17]"),
            ("/[aio] (deleted)", "asynchronous I/O"),
            ("/secretmem (deleted)", "memfd_secret"),
        ] {
            let refusal = classify(&named(name)).unwrap_err();
            assert!(refusal.problem.contains(text), "{refusal:?}");
        }
        let device = area("1000-3000 rw-s 0 00:05 7 /dev/mem", "rd wr sh pf io");
        assert!(classify(&device).unwrap_err().problem.contains("/dev/mem"));
    }

    #[test]
    fn flags_are_taken_apart() {
        let stack = area("1000-3000 rw-p 0 00:00 0 [stack]", "rd wr mr mw me gd ac");
        let found = flags(&stack).unwrap();
        assert!(found.grows_down && found.account && !found.locked);
        for (given, text) in [("rd um", "userfaultfd"), ("rd qq", "\"qq\"")] {
            let problem = flags(&area("1000-3000 rw-p 0 00:00 0", given))
                .unwrap_err()
                .problem;
            assert!(problem.contains(text), "{problem}");
        }
        let vvar = area("1000-3000 r--p 0 00:00 0 [vvar]", "rd pf io qq");
        assert_eq!(flags(&vvar), Ok(VmaFlags::default()));
    }

    #[test]
    fn names_of_anonymous_memory_are_kept() {
        assert_eq!(anon_name(&named("[anon: a]b]")).unwrap(), b" a]b");
        assert_eq!(anon_name(&named("[heap]")), None);
    }
}
