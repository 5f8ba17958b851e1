//! `clone3(2)`: its arguments, and a child that waits to be taken over.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// `struct clone_args` of Linux 5.7 and later.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct CloneArgs {
    /// CLONE_*.
    pub flags: u64,
    /// Where CLONE_PIDFD stores a descriptor.
    pub pidfd: u64,
    /// CLONE_CHILD_SETTID, CLONE_CHILD_CLEARTID.
    pub child_tid: u64,
    /// CLONE_PARENT_SETTID.
    pub parent_tid: u64,
    /// Signal to the parent when the child ends.
    pub exit_signal: u64,
    /// Lowest address of the child's stack; 0: the parent's stack pointer.
    pub stack: u64,
    /// Bytes of stack.
    pub stack_size: u64,
    /// CLONE_SETTLS.
    pub tls: u64,
    /// Address of an array of `pid_t`, innermost pid namespace first.
    pub set_tid: u64,
    /// Its length.
    pub set_tid_size: u64,
    /// CLONE_INTO_CGROUP.
    pub cgroup: u64,
}

/// Flags of [`spawn_waiting`]: none that shares memory or makes a thread.
const ALLOWED: u64 = (libc::CLONE_PARENT | libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64;
const WORDS: usize = size_of::<CloneArgs>() / 8;

impl CloneArgs {
    /// The structure as it lies in memory.
    pub fn to_bytes(self) -> [u8; size_of::<CloneArgs>()] {
        let words: [u64; WORDS] = [
            self.flags,
            self.pidfd,
            self.child_tid,
            self.parent_tid,
            self.exit_signal,
            self.stack,
            self.stack_size,
            self.tls,
            self.set_tid,
            self.set_tid_size,
            self.cgroup,
        ];
        let mut bytes = [0; size_of::<CloneArgs>()];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// The gate a new child waits at: it ends when the last copy of `keep` outside
/// of it is closed.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a> {
    /// Read end of a pipe.
    pub wait: BorrowedFd<'a>,
    /// Write end of it, which the child closes at once.
    pub keep: BorrowedFd<'a>,
}

/// Creates a child of the calling thread that does nothing but wait at `gate`,
/// and ends when that closes. It shares nothing with this process (memory and
/// descriptors are copies), runs no code but a few instructions here, and is
/// there to be taken over by ptrace.
///
/// `flags` are CLONE_* beyond that: CLONE_PARENT, CLONE_NEWPID, CLONE_NEWNS.
/// `set_tid` is the pid it gets; `None`: a fresh one.
pub fn spawn_waiting(
    flags: u64,
    exit_signal: u64,
    set_tid: Option<u32>,
    gate: Gate<'_>,
) -> Result<u32, Errno> {
    if flags & !ALLOWED != 0 {
        return Err(Errno::INVAL);
    }
    let wanted = [set_tid.unwrap_or(0)];
    let args = CloneArgs {
        flags,
        exit_signal,
        set_tid: if set_tid.is_some() {
            wanted.as_ptr() as u64
        } else {
            0
        },
        set_tid_size: u64::from(set_tid.is_some()),
        ..CloneArgs::default()
    };
    let ret: i64;
    // SAFETY: `flags` was checked to hold no CLONE_VM, so that the child has a copy of this
    // thread's memory. In the child the instructions never leave this block:
    // they close `keep`, read from `wait` into dead stack below the red zone,
    // and exit. In the parent only the registers named change.
    unsafe {
        core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 3f",
            "mov eax, 3",                // close(keep)
            "mov rdi, r13",
            "syscall",
            "2:",
            "xor eax, eax",              // read(wait, below the stack, 1)
            "mov rdi, r12",
            "lea rsi, [rsp - 1024]",
            "mov edx, 1",
            "syscall",
            "cmp rax, -4",               // EINTR
            "je 2b",
            "mov eax, 231",              // exit_group(1)
            "mov edi, 1",
            "syscall",
            "ud2",
            "3:",
            inlateout("rax") i64::from(libc::SYS_clone3 as i32) => ret,
            in("rdi") &raw const args,
            in("rsi") size_of::<CloneArgs>(),
            in("r12") i64::from(gate.wait.as_raw_fd()),
            in("r13") i64::from(gate.keep.as_raw_fd()),
            lateout("rcx") _,
            lateout("r11") _,
            lateout("rdx") _,
        );
    }
    match ret {
        ..0 => Err(Errno::from_raw_os_error(-ret as i32)),
        pid => Ok(pid as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn child_waits_until_the_gate_closes() {
        let (wait, keep) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let gate = Gate {
            wait: wait.as_fd(),
            keep: keep.as_fd(),
        };
        let pid = spawn_waiting(0, libc::SIGCHLD as u64, None, gate).unwrap();
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        let alive =
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG).unwrap();
        assert!(alive.is_none(), "the child ended although the gate is open");
        drop(keep);
        let (_, status) =
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
                .unwrap()
                .unwrap();
        assert_eq!(status.exit_status(), Some(1));
    }

    #[test]
    fn arguments_lie_as_the_kernel_reads_them() {
        let args = CloneArgs {
            flags: 1,
            set_tid: 2,
            cgroup: 3,
            ..CloneArgs::default()
        };
        let bytes = args.to_bytes();
        assert_eq!((bytes[0], bytes[64], bytes[80]), (1, 2, 3));
        assert_eq!(core::mem::offset_of!(CloneArgs, set_tid), 64);
    }
}
