//! Whether code may be run inside a thread at all.
//!
//! A seccomp filter that denies one of the stub's calls would kill the target,
//! or leave it with its signals blocked, if icecore died meanwhile: ptrace can
//! suspend seccomp only as long as there is a tracer. So the filters are
//! evaluated on exactly the calls that will be made. The same goes for syscall
//! user dispatch.

use std::io;

use icecore_images::thread::SyscallUserDispatch;
use icecore_parasite::stub_layout;

use super::bpf::{self, SeccompData};
use super::freeze::{FrozenTask, FrozenThread};
use super::peek::{self, SockFilter};
use super::room::NoRoom;
use super::script::Script;
use super::stub::{NoPlace, StubPlace};
use crate::kernel::status::Status;

/// Why nothing may be run inside a task.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum InjectionObstacle {
    /// There is no place for the stub.
    #[error("no place to run icecore's code in: {0}")]
    NoPlace(NoPlace),
    /// There is no memory for it.
    #[error(transparent)]
    NoRoom(NoRoom),
    /// A filter denies a call.
    #[error("its seccomp filter number {filter} does not allow {call}, which icecore has to make")]
    Filter {
        tid: u32,
        /// Counted from 0 in the order of installation.
        filter: usize,
        call: &'static str,
    },
    /// Only read, write, exit and sigreturn are allowed.
    #[error("it is in seccomp's strict mode, which allows none of the calls icecore has to make")]
    Strict { tid: u32 },
    /// The filters could not be read.
    #[error("its seccomp filters cannot be read: {source}")]
    Unreadable { tid: u32, source: io::Error },
    /// Calls raise SIGSYS.
    #[error("its syscall user dispatch is set to block system calls")]
    Dispatch { tid: u32 },
}

impl InjectionObstacle {
    /// The thread it is about, if it is about one.
    pub fn tid(&self) -> Option<u32> {
        match self {
            Self::NoPlace(_) | Self::NoRoom(_) => None,
            Self::Filter { tid, .. }
            | Self::Strict { tid }
            | Self::Unreadable { tid, .. }
            | Self::Dispatch { tid } => Some(*tid),
        }
    }

    /// What would help.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Dispatch { .. } => None,
            Self::NoPlace(_) => {
                Some("a process that keeps its vDSO, or maps any shared library, has one")
            }
            Self::NoRoom(_) => Some(NoRoom::HELP),
            Self::Filter { .. } | Self::Strict { .. } => Some(
                "--risk-seccomp dumps it all the same; it is killed if icecore is killed at the \
                 wrong moment",
            ),
            Self::Unreadable { .. } => {
                Some("reading filters needs CAP_SYS_ADMIN and an icecore without seccomp")
            }
        }
    }
}

/// A thread's seccomp, as far as it matters here.
#[derive(Debug, Clone, Default)]
pub(super) enum Seccomp {
    /// None, or none that matters.
    #[default]
    Off,
    /// Strict mode.
    Strict,
    /// Filters, in the order of installation.
    Filters(Vec<Vec<SockFilter>>),
}

impl Seccomp {
    fn of_thread(tid: u32) -> io::Result<Self> {
        match Status::read(tid)?.seccomp {
            0 => Ok(Seccomp::Off),
            1 => Ok(Seccomp::Strict),
            _ => {
                let mut filters = Vec::new();
                while let Some((program, _)) = peek::seccomp_filter(tid, filters.len())? {
                    filters.push(program);
                }
                Ok(Seccomp::Filters(filters))
            }
        }
    }

    /// The first filter that does anything about this call but allow it (and,
    /// where `may_fail`, give an error).
    fn denial(&self, data: &SeccompData, may_fail: bool) -> Option<usize> {
        let Seccomp::Filters(filters) = self else {
            return None;
        };
        filters.iter().position(|filter| {
            let action = bpf::run(filter, data).map(|ret| ret & ACTION_FULL);
            match action {
                Some(RET_ALLOW | RET_LOG) => false,
                Some(RET_ERRNO) => !may_fail,
                _ => true,
            }
        })
    }
}

/// Stands for the area's address, which is known only later: filters do not
/// tell addresses apart.
const TYPICAL_AREA: u64 = 0x7fff_f7ff_0000;
const ACTION_FULL: u32 = 0xffff_0000;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ERRNO: u32 = 0x0005_0000;

impl FrozenTask {
    /// Everything that forbids running code inside this task's threads. With
    /// `risk_seccomp` filters do not count, and are suspended while code runs.
    pub fn injection_obstacles(&mut self, risk_seccomp: bool) -> Vec<InjectionObstacle> {
        let place = match self.stub_place() {
            Ok(place) => place,
            Err(e) => return vec![InjectionObstacle::NoPlace(e)],
        };
        self.risk_seccomp = risk_seccomp;
        let mut obstacles = Vec::new();
        obstacles.extend(self.room_for(0).err().map(InjectionObstacle::NoRoom));
        for thread in &mut self.threads {
            let tid = thread.tid;
            match Seccomp::of_thread(tid) {
                Ok(seccomp) => thread.seccomp = seccomp,
                // Whoever takes the risk need not know the filters.
                Err(_) if risk_seccomp => thread.seccomp = Seccomp::Strict,
                Err(source) => obstacles.push(InjectionObstacle::Unreadable { tid, source }),
            }
            if !risk_seccomp {
                obstacles.extend(stub_denied(thread, place));
            }
            obstacles.extend(dispatched(thread, place, &self.memory));
        }
        obstacles
    }
}

/// The first of the stub's calls that would not be let through.
fn stub_denied(thread: &FrozenThread, place: StubPlace) -> Option<InjectionObstacle> {
    let tid = thread.tid;
    if matches!(thread.seccomp, Seccomp::Strict) {
        return Some(InjectionObstacle::Strict { tid });
    }
    for call in stub_calls(place) {
        if let Some(filter) = thread.seccomp.denial(&call.data, false) {
            let call = call.name;
            return Some(InjectionObstacle::Filter { tid, filter, call });
        }
    }
    None
}

struct StubCall {
    name: &'static str,
    data: SeccompData,
}

/// Every call of the stub, with the arguments it makes it with.
fn stub_calls(place: StubPlace) -> Vec<StubCall> {
    let at = |offset: u64| place.address + offset;
    let layout = stub_layout();
    let constants = at(layout.constants);
    let call = |name, nr: i64, ip, args| StubCall {
        name,
        data: SeccompData {
            nr: nr as u32,
            ip,
            args,
        },
    };
    vec![
        call(
            "rt_sigprocmask",
            libc::SYS_rt_sigprocmask,
            at(layout.blocked),
            [2, constants, 0, 8, 0, 0],
        ),
        call(
            "mmap",
            libc::SYS_mmap,
            at(layout.mapped),
            [0, 4096, 3, 0x22, u64::MAX, 0],
        ),
        call(
            "munmap",
            libc::SYS_munmap,
            at(layout.unmapped),
            [TYPICAL_AREA, 4096, 0, 0, 0, 0],
        ),
        call(
            "ppoll",
            libc::SYS_ppoll,
            at(layout.asked),
            [0, 0, constants, constants, 8, 0],
        ),
        call(
            "rt_sigprocmask",
            libc::SYS_rt_sigprocmask,
            at(layout.unblocked),
            [2, constants, 0, 8, 0, 0],
        ),
    ]
}

/// A call of a script that one of the thread's filters denies: the filter's
/// number and what the call is for. Calls that a filter lets fail may fail.
pub(super) fn script_denied(thread: &FrozenThread, script: &Script) -> Option<(usize, String)> {
    let ip = thread.registers.rip;
    script.calls(TYPICAL_AREA).find_map(|(what, nr, args)| {
        let filter = thread.seccomp.denial(&SeccompData { nr, ip, args }, true)?;
        Some((filter, what.to_owned()))
    })
}

fn dispatched(
    thread: &FrozenThread,
    place: StubPlace,
    memory: &super::memory::Memory,
) -> Option<InjectionObstacle> {
    const SELECTOR_ALLOW: u8 = 0;
    let tid = thread.tid;
    let SyscallUserDispatch {
        selector,
        offset,
        len,
        ..
    } = thread.syscall_user_dispatch().ok()??;
    let mut state = [1];
    let blocks =
        selector == 0 || memory.read(selector, &mut state).is_err() || state[0] != SELECTOR_ALLOW;
    let outside = place.address.wrapping_sub(offset) >= len;
    (blocks && outside).then_some(InjectionObstacle::Dispatch { tid })
}
