//! What this kernel and this process' privileges offer. Each probe asks the
//! kernel for the thing itself, in a way that changes nothing; versions are
//! never compared.

use std::io;
use std::path::Path;

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use rustix::thread::{CapabilitySet, capabilities};
use serde::Serialize;

use super::maps;
use super::pagemap::{Method, PageMap};
use super::vdso::Vdso;

/// Something a dump or restore may need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Its name, as `icecore check --feature` takes it.
    pub name: &'static str,
    /// Whether nothing works without it.
    pub required: bool,
    /// What it is needed for, or what goes another way without it.
    pub purpose: &'static str,
    /// Why it is missing; `None`: it is there.
    pub missing: Option<String>,
}

/// All features, probed once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Features {
    /// Required ones first.
    pub list: Vec<Feature>,
}

impl Features {
    /// Asks the kernel.
    pub fn probe() -> Self {
        let probe = |p: &Probe| Feature {
            name: p.name,
            required: p.required,
            purpose: p.purpose,
            missing: (p.ask)().err().map(|e| e.to_string()),
        };
        let list = KERNEL.iter().map(probe).chain(capability_features());
        Self {
            list: list.collect(),
        }
    }

    /// The feature called `name`.
    pub fn get(&self, name: &str) -> Option<&Feature> {
        self.list.iter().find(|feature| feature.name == name)
    }
}

struct Probe {
    name: &'static str,
    required: bool,
    purpose: &'static str,
    ask: fn() -> io::Result<()>,
}

const KERNEL: &[Probe] = &[
    Probe {
        name: "checkpoint_restore",
        required: true,
        purpose: "CONFIG_CHECKPOINT_RESTORE: everything",
        ask: checkpoint_restore,
    },
    Probe {
        name: "kcmp",
        required: true,
        purpose: "telling shared file descriptions from equal ones",
        ask: kcmp,
    },
    Probe {
        name: "pidfd_getfd",
        required: true,
        purpose: "looking at descriptors of the target",
        ask: get_descriptor,
    },
    Probe {
        name: "clone3",
        required: true,
        purpose: "restored processes and threads get their old pids",
        ask: clone3,
    },
    Probe {
        name: "proc_map_files",
        required: true,
        purpose: "reading mapped files that have lost their name",
        ask: || there("/proc/self/map_files"),
    },
    Probe {
        name: "vdso_tail",
        required: false,
        purpose: "room for the code that takes the target home; otherwise another place is used",
        ask: vdso_tail,
    },
    Probe {
        name: "proc_mem_force",
        required: false,
        purpose: "writing to protected memory; otherwise PTRACE_POKEDATA is used",
        ask: proc_mem_force,
    },
    Probe {
        name: "sched_debug",
        required: false,
        purpose: "/proc/PID/sched: interrupted relative waits continue with the rest of their \
                  time; otherwise they start anew",
        ask: || there("/proc/self/sched"),
    },
    Probe {
        name: "timens",
        required: false,
        purpose: "time namespaces: monotonic clocks go on from the dump (--clock dump)",
        ask: || there("/proc/self/ns/time"),
    },
    Probe {
        name: "pagemap_scan",
        required: false,
        purpose: "finding pages fast (6.7); otherwise /proc/PID/pagemap is read word by word",
        ask: || scan_knows(&[Method::Scan, Method::ScanGuards]),
    },
    Probe {
        name: "pagemap_scan_guard",
        required: false,
        purpose: "seeing guard pages (6.15)",
        ask: || scan_knows(&[Method::ScanGuards]),
    },
    Probe {
        name: "mseal",
        required: false,
        purpose: "restoring sealed memory (6.10)",
        ask: mseal,
    },
    Probe {
        name: "mdwe",
        required: false,
        purpose: "restoring memory-deny-write-execute (6.3)",
        ask: || prctl(PR_GET_MDWE),
    },
    Probe {
        name: "userfaultfd",
        required: false,
        purpose: "nothing yet: restoring pages on demand will need it",
        ask: || syscall(libc::SYS_userfaultfd, [libc::O_CLOEXEC as u64, 0, 0, 0]),
    },
];

/// Capabilities and what each is needed for, those first without which nothing
/// works.
const CAPABILITIES: &[(&str, CapabilitySet, bool, &str)] = &[
    (
        "cap_sys_ptrace",
        CapabilitySet::SYS_PTRACE,
        true,
        "processes of other users, and those that are not dumpable",
    ),
    (
        "cap_checkpoint_restore",
        CapabilitySet::CHECKPOINT_RESTORE,
        true,
        "choosing pids, /proc/PID/map_files, the exe link",
    ),
    (
        "cap_sys_admin",
        CapabilitySet::SYS_ADMIN,
        false,
        "reading seccomp filters, making namespaces",
    ),
    (
        "cap_sys_time",
        CapabilitySet::SYS_TIME,
        false,
        "clocks that go on from the dump (--clock dump)",
    ),
    (
        "cap_sys_resource",
        CapabilitySet::SYS_RESOURCE,
        false,
        "raising hard limits above one's own, lowering oom_score_adj, large pipes",
    ),
    (
        "cap_setuid",
        CapabilitySet::SETUID,
        false,
        "processes of other users",
    ),
    (
        "cap_setgid",
        CapabilitySet::SETGID,
        false,
        "processes with other groups",
    ),
    (
        "cap_sys_nice",
        CapabilitySet::SYS_NICE,
        false,
        "real-time scheduling, priorities above the ordinary",
    ),
    (
        "cap_dac_override",
        CapabilitySet::DAC_OVERRIDE,
        false,
        "files that only other users may open",
    ),
    (
        "cap_kill",
        CapabilitySet::KILL,
        false,
        "ending processes of other users",
    ),
    (
        "cap_net_admin",
        CapabilitySet::NET_ADMIN,
        false,
        "nothing yet: network connections will need it",
    ),
];

fn capability_features() -> impl Iterator<Item = Feature> {
    let effective = capabilities(None).map(|sets| sets.effective);
    CAPABILITIES
        .iter()
        .map(move |&(name, cap, required, purpose)| {
            let missing = match effective {
                Ok(have) if have.contains(cap) => None,
                Ok(_) => Some("not among the effective capabilities".to_owned()),
                Err(e) => Some(e.to_string()),
            };
            Feature {
                name,
                required,
                purpose,
                missing,
            }
        })
}

fn there(path: &str) -> io::Result<()> {
    Path::new(path).symlink_metadata().map(drop)
}

/// PR_SET_MM_MAP_SIZE is only compiled in with CONFIG_CHECKPOINT_RESTORE.
fn checkpoint_restore() -> io::Result<()> {
    const PR_SET_MM: u64 = 35;
    const PR_SET_MM_MAP_SIZE: u64 = 15;
    let mut size: u32 = 0;
    let to = std::ptr::from_mut(&mut size) as u64;
    syscall(libc::SYS_prctl, [PR_SET_MM, PR_SET_MM_MAP_SIZE, to, 0])
}

fn kcmp() -> io::Result<()> {
    const KCMP_VM: u64 = 1;
    let this = u64::from(std::process::id());
    syscall(libc::SYS_kcmp, [this, this, KCMP_VM, 0])
}

fn get_descriptor() -> io::Result<()> {
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&this);
    pidfd_getfd(&this, number, PidfdGetfdFlags::empty())?;
    Ok(())
}

/// Without arguments it is EINVAL where it exists.
fn clone3() -> io::Result<()> {
    expect(libc::EINVAL, syscall(libc::SYS_clone3, [0; 4]))
}

fn mseal() -> io::Result<()> {
    const SYS_MSEAL: i64 = 462;
    syscall(SYS_MSEAL, [0; 4])
}

const PR_GET_MDWE: u64 = 66;

fn prctl(option: u64) -> io::Result<()> {
    syscall(libc::SYS_prctl, [option, 0, 0, 0])
}

fn vdso_tail() -> io::Result<()> {
    /// What the stub takes at least.
    const NEEDED: usize = 512;
    let areas = maps::read_maps(std::process::id())?;
    let vdso = areas.iter().find(|area| area.name == b"[vdso]");
    let vdso = vdso.ok_or_else(|| io::Error::other("there is no vDSO"))?;
    let length = usize::try_from(vdso.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    let memory = std::fs::File::open("/proc/self/mem")?;
    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes, vdso.start)?;
    let image = Vdso::parse(&bytes).map_err(io::Error::other)?;
    match length - image.elf_len {
        room if room >= NEEDED => Ok(()),
        room => Err(io::Error::other(format!("only {room} bytes are free"))),
    }
}

/// Writes through a page of our own that may not be written to.
fn proc_mem_force() -> io::Result<()> {
    let page = memmap2::MmapMut::map_anon(4096)?.make_read_only()?;
    let memory = std::fs::File::options()
        .write(true)
        .open("/proc/self/mem")?;
    std::os::unix::fs::FileExt::write_all_at(&memory, &[0], page.as_ptr() as u64)
}

fn scan_knows(methods: &[Method]) -> io::Result<()> {
    let found = PageMap::open(std::process::id())?.method();
    match methods.contains(&found) {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::ENOTTY)),
    }
}

fn expect(errno: i32, result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.raw_os_error() == Some(errno) => Ok(()),
        other => other,
    }
}

/// A system call that leaves nothing behind but, at most, a descriptor, which
/// is closed.
fn syscall(nr: i64, [a, b, c, d]: [u64; 4]) -> io::Result<()> {
    // SAFETY: the callers above pass calls that write to nothing but the one
    // `u32` given to PR_SET_MM_MAP_SIZE, which outlives the call.
    let result = unsafe { libc::syscall(nr, a, b, c, d, 0, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if nr == libc::SYS_userfaultfd {
        // SAFETY: the call has just made this descriptor for us alone.
        unsafe { libc::close(i32::try_from(result).map_err(io::Error::other)?) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_purposes_are_said() {
        let features = Features::probe();
        let names: std::collections::BTreeSet<_> = features.list.iter().map(|f| f.name).collect();
        assert_eq!(names.len(), features.list.len());
        assert!(features.list.iter().all(|f| !f.purpose.is_empty()));
    }

    #[test]
    fn what_every_supported_kernel_has_is_found() {
        let features = Features::probe();
        for name in ["kcmp", "pidfd_getfd", "clone3", "checkpoint_restore"] {
            assert_eq!(
                features.get(name).map(|f| &f.missing),
                Some(&None),
                "{name}"
            );
        }
        assert!(features.get("no_such_feature").is_none());
    }

    #[test]
    fn a_missing_call_is_seen() {
        assert!(syscall(9999, [0; 4]).is_err());
    }
}
