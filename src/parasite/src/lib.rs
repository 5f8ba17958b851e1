//! The code that icecore runs inside other processes, and its ABI.
//!
//! Both blobs run *scripts*: arrays of [`Op`], each one system call with its
//! arguments, its result written back in place. What a dump asks of its target
//! and what a restore does to its child is therefore ordinary safe Rust on the
//! tracer's side; the code inside the other process knows no resource at all.
//!
//! A script needs so little code that both blobs are a few hundred bytes of
//! position-independent assembly which rustc assembles into this crate: they
//! use general registers only, no stack, no extended state, no relocation, and
//! the memory they need is one readable and writable area for the script.
#![cfg_attr(not(test), no_std)]

// Runs the script whose header is at rbx; goes to \done when all calls have
// been made or one that must succeed has failed; a call that forks has its child
// end at once. Uses rax, rcx, rdx, rsi, rdi,
// r8 to r13; touches neither rsp nor any memory but the script's. (The unit of
// assembly may be any, so each blob defines it anew.)
macro_rules! run_script {
    () => {
        r#"
    .macro ICECORE_RUN_SCRIPT done
        mov     r13, [rbx]
        lea     r12, [rbx + 64]
    203:
        test    r13, r13
        jz      \done
        mov     rax, [r12]
        mov     rdi, [r12 + 8]
        mov     rsi, [r12 + 16]
        mov     rdx, [r12 + 24]
        mov     r10, [r12 + 32]
        mov     r8,  [r12 + 40]
        mov     r9,  [r12 + 48]
        syscall
        mov     [r12 + 56], rax
        add     r12, 72
        dec     r13
        test    byte ptr [r12 - 8], 2
        jz      205f
        test    rax, rax
        jnz     205f
        // The copy, which nobody holds: exit_group(0).
    206:
        mov     eax, 231
        xor     edi, edi
        syscall
        jmp     206b
    205:
        test    byte ptr [r12 - 8], 1
        jz      203b
        cmp     rax, -4095
        jb      203b
        jmp     \done
    .endm
    "#
    };
}

mod init;
mod restorer;
mod stub;

pub use init::init;
pub use restorer::{RESTORER_ENTRY, restorer};
pub use stub::{ASK, ASK_UNTOLD, Home, STUB_MAGIC, StubConstants, StubLayout, stub, stub_layout};

/// One system call of a script.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Op {
    /// System call number.
    pub nr: u64,
    /// Arguments; addresses are already those of the process it runs in.
    pub args: [u64; 6],
    /// What the call returned (negative errno on failure).
    pub ret: i64,
    /// [`OP_MUST_SUCCEED`] and friends.
    pub flags: u64,
}

/// A failing call ends the script.
pub const OP_MUST_SUCCEED: u64 = 1;
/// The call is a fork: where it returns 0, it is the child that runs, and ends.
pub const OP_FORKS: u64 = 2;

/// What lies in front of the first [`Op`] of a script in memory: the number of
/// its calls as a little-endian word, then zeros. 0 calls: nothing is run.
pub const SCRIPT_HEADER: usize = 64;

const _: () = assert!(size_of::<Op>() == 72);
const _: () = assert!(core::mem::offset_of!(Op, flags) == 64);
