//! A thread: registers and everything the kernel keeps for one thread alone.

use serde::{Deserialize, Serialize};

use crate::bytes::ByteString;
use crate::creds::CredsState;
use crate::ids::CgroupSetId;
use crate::prctl::ThreadControls;
use crate::sched::SchedState;
use crate::seccomp::SeccompState;
use crate::signals::{PendingSignal, SigAltStack};

/// One thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadState {
    /// Thread id in the pid namespace the dump saw it in.
    pub tid: u32,
    /// Innermost-last tids in nested pid namespaces.
    pub ns_tids: Vec<u32>,
    /// `/proc/PID/task/TID/comm`, without the newline.
    pub comm: ByteString,
    /// Registers as the interrupted thread has them, raw: a call to be
    /// restarted still has its -ERESTART* in `rax`.
    pub registers: Registers,
    /// The XSAVE area in the standard (non-compacted) format.
    pub xstate: XState,
    /// What the thread was waiting for, and how that wait goes on.
    pub interrupted: Interrupted,
    /// Blocked signals.
    pub signal_mask: u64,
    /// Signals pending for this thread alone, in queue order.
    pub pending: Vec<PendingSignal>,
    /// `sigaltstack`.
    pub alt_stack: SigAltStack,
    /// `set_tid_address`.
    pub clear_child_tid: u64,
    /// `get_robust_list`.
    pub robust_list: RobustList,
    /// The registered rseq area, if any.
    pub rseq: Option<Rseq>,
    /// Syscall user dispatch, if it is on.
    pub syscall_user_dispatch: Option<SyscallUserDispatch>,
    /// Credentials.
    pub creds: CredsState,
    /// Seccomp.
    pub seccomp: SeccompState,
    /// Scheduling.
    pub sched: SchedState,
    /// prctl state that belongs to the thread.
    pub controls: ThreadControls,
    /// Its cgroups, where the dump has recorded them.
    pub cgroups: Option<CgroupSetId>,
}

/// `struct user_regs_struct` of x86_64, in its order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

/// Extended state as PTRACE_GETREGSET(NT_X86_XSTATE) gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct XState {
    /// XCR0 of the machine that dumped (bytes 464..472 of the area).
    pub xcr0: u64,
    /// Where the area holds each component beyond x87 and SSE: CPUs differ.
    pub layout: Vec<XComponent>,
    /// The whole area.
    #[serde(with = "crate::bytes::hex")]
    pub area: ByteString,
}

/// Place of an extended-state component in an XSAVE area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct XComponent {
    /// Its bit in XCR0.
    pub number: u32,
    /// Bytes from the start of the area.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

/// How a thread caught inside a system call goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Interrupted {
    /// Not inside a call, or the call had already returned.
    No,
    /// The call is issued again as it stands.
    Reissue,
    /// A relative wait: issued again with the time that remains.
    Timed {
        /// Nanoseconds that remained at the freeze; `None` where it could not
        /// be found out and the wait starts anew.
        remaining_ns: Option<u64>,
    },
}

/// `set_robust_list`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RobustList {
    /// Address of the head; 0: none.
    pub head: u64,
    /// Length the thread registered it with.
    pub len: u64,
}

/// `rseq(2)` registration (PTRACE_GET_RSEQ_CONFIGURATION).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Rseq {
    pub address: u64,
    pub len: u32,
    pub signature: u32,
    pub flags: u32,
}

/// PR_SET_SYSCALL_USER_DISPATCH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct SyscallUserDispatch {
    pub mode: u64,
    pub selector: u64,
    pub offset: u64,
    pub len: u64,
}
