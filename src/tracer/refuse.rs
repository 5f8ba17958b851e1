//! Tasks that cannot be frozen, each refused by name.

use std::fs::File;
use std::io::{self, Read};

use icecore_images::ByteString;

use super::freeze::FrozenTask;
use super::ptrace::TraceError;
use crate::kernel::stat::{PF_KTHREAD, Stat};
use crate::kernel::status::Status;

/// Why a task is not one that could be frozen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Refusal {
    /// It does not exist.
    #[error("pid {pid}: no such process")]
    NoSuchTask { pid: u32 },
    /// It is a thread, not a process.
    #[error("pid {pid} is a thread of pid {leader} ({comm})")]
    Thread {
        pid: u32,
        leader: u32,
        comm: ByteString,
    },
    /// It is the kernel's.
    #[error("pid {pid} ({comm}) is a kernel thread")]
    KernelThread { pid: u32, comm: ByteString },
    /// It has ended and waits for its parent.
    #[error("pid {pid} ({comm}) has ended and waits to be reaped by its parent, pid {ppid}")]
    Zombie {
        pid: u32,
        comm: ByteString,
        ppid: u32,
    },
    /// It is icecore.
    #[error("pid {pid} is icecore itself")]
    Own { pid: u32 },
    /// It is icecore's parent, its parent's parent …
    #[error("pid {pid} ({comm}) is an ancestor of icecore, which would freeze with it")]
    Ancestor { pid: u32, comm: ByteString },
    /// Another tracer is there already.
    #[error("pid {pid} ({comm}) is already traced by pid {tracer} ({tracer_comm})")]
    Traced {
        pid: u32,
        comm: ByteString,
        tracer: u32,
        tracer_comm: ByteString,
    },
    /// It is not a 64-bit program.
    #[error("pid {pid} ({comm}) is a {abi} program; only 64-bit x86 ones are supported")]
    OtherAbi {
        pid: u32,
        comm: ByteString,
        abi: &'static str,
    },
    /// The kernel does not let us.
    #[error("attach to thread {tid} ({comm})")]
    Denied {
        tid: u32,
        comm: ByteString,
        #[source]
        source: io::Error,
    },
    /// It is there but cannot be looked at.
    #[error("read /proc/{pid}/{file}")]
    Unreadable {
        pid: u32,
        file: &'static str,
        #[source]
        source: io::Error,
    },
}

impl Refusal {
    /// What would help.
    pub fn help(&self) -> Option<String> {
        match self {
            Refusal::Thread { leader, .. } => Some(format!("name its process: -t {leader}")),
            Refusal::Ancestor { .. } => Some(
                "start icecore from another session, for instance from another terminal or with \
                 setsid"
                    .to_owned(),
            ),
            Refusal::Traced { tracer, .. } => {
                Some(format!("end the tracer or let it detach: kill {tracer}"))
            }
            Refusal::Denied { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some(
                    "run as root or with CAP_SYS_PTRACE; kernel.yama.ptrace_scope=3 forbids \
                     ptrace altogether"
                        .to_owned(),
                )
            }
            _ => None,
        }
    }
}

/// Refuses what can be seen without touching the task.
pub(super) fn check(pid: u32) -> Result<(), Refusal> {
    let missing = |source: io::Error, file| match source.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => Refusal::NoSuchTask { pid },
        _ => Refusal::Unreadable { pid, file, source },
    };
    if pid == 0 || pid > i32::MAX as u32 {
        return Err(Refusal::NoSuchTask { pid });
    }
    let mut stat = Stat::read(pid).map_err(|e| missing(e, "stat"))?;
    if stat.state == b'Z' {
        // So looks a leader, for a moment, while another thread executes a
        // program in its place.
        std::thread::sleep(std::time::Duration::from_millis(5));
        stat = Stat::read(pid).map_err(|e| missing(e, "stat"))?;
    }
    let status = Status::read(pid).map_err(|e| missing(e, "status"))?;
    let comm = ByteString(stat.comm);
    if status.tgid != pid {
        let leader = status.tgid;
        return Err(Refusal::Thread { pid, leader, comm });
    }
    if stat.flags & PF_KTHREAD != 0 {
        return Err(Refusal::KernelThread { pid, comm });
    }
    if pid == std::process::id() {
        return Err(Refusal::Own { pid });
    }
    if is_ancestor(pid) {
        return Err(Refusal::Ancestor { pid, comm });
    }
    if stat.state == b'Z' && thread_count(pid) <= 1 {
        let ppid = stat.ppid;
        return Err(Refusal::Zombie { pid, comm, ppid });
    }
    if status.tracer != 0 {
        return Err(traced(pid, status.tracer));
    }
    if let Some(abi) = foreign_abi(pid) {
        return Err(Refusal::OtherAbi { pid, comm, abi });
    }
    Ok(())
}

fn is_ancestor(pid: u32) -> bool {
    let mut ancestor = std::process::id();
    while let Ok(stat) = Stat::read(ancestor) {
        ancestor = stat.ppid;
        if ancestor == pid {
            return true;
        }
    }
    false
}

fn thread_count(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

fn traced(tid: u32, tracer: u32) -> Refusal {
    Refusal::Traced {
        pid: tid,
        comm: comm(tid),
        tracer,
        tracer_comm: comm(tracer),
    }
}

fn comm(tid: u32) -> ByteString {
    Stat::read(tid).map_or_else(|_| ByteString(b"?".to_vec()), |s| ByteString(s.comm))
}

/// The ABI of the program's ELF header, where it is not the one we know.
fn foreign_abi(pid: u32) -> Option<&'static str> {
    let mut header = [0; 20];
    File::open(format!("/proc/{pid}/exe"))
        .and_then(|mut exe| exe.read_exact(&mut header))
        .ok()?;
    const ELFCLASS32: u8 = 1;
    const EM_X86_64: u8 = 62;
    match (header[4], header[18]) {
        (ELFCLASS32, EM_X86_64) => Some("x32"),
        (ELFCLASS32, _) => Some("32-bit"),
        _ => None,
    }
}

/// Whether the calling thread is its tracer already.
pub(super) fn is_ours(tid: u32) -> bool {
    let own = rustix::thread::gettid().as_raw_nonzero().get() as u32;
    Status::read(tid).is_ok_and(|status| status.tracer == own)
}

/// What a failed PTRACE_SEIZE means.
pub(super) fn seize_error(tid: u32, error: TraceError) -> Refusal {
    match Status::read(tid) {
        Ok(status) if status.tracer != 0 => traced(tid, status.tracer),
        _ => Refusal::Denied {
            tid,
            comm: comm(tid),
            source: match error {
                TraceError::Request { source, .. } => source,
                other => io::Error::other(other),
            },
        },
    }
}

/// Refuses what shows only in the registers: a thread in a 32-bit segment.
pub(super) fn check_frozen(task: &FrozenTask) -> Result<(), Refusal> {
    const USER_CS_64: u64 = 0x33;
    match task.threads.iter().find(|t| t.registers.cs != USER_CS_64) {
        Some(thread) => Err(Refusal::OtherAbi {
            pid: task.pid,
            comm: comm(thread.tid),
            abi: "32-bit",
        }),
        None => Ok(()),
    }
}
