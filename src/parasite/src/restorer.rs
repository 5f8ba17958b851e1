//! The restorer: runs scripts in a child that icecore is turning into a
//! restored task.
//!
//! Such a child dies with icecore (PTRACE_O_EXITKILL), so a breakpoint may end
//! a script. Protocol: the bytes of [`restorer`] lie anywhere in an executable
//! area, a script with its header anywhere in a writable one. Set `rip` to
//! [`RESTORER_ENTRY`] past the first byte, `rbx` to the script's header, any
//! `rsp` (it is not used), `orig_rax` to -1, and PTRACE_CONT; the thread stops
//! with SIGTRAP when the script has ended. Any number of threads may run it at
//! the same time. Several scripts can follow each other by setting `rip` and
//! `rbx` again.

core::arch::global_asm!(
    run_script!(),
    r#"
    .pushsection .rodata.icecore_restorer, "a", @progbits
    .balign 16
    .globl  icecore_restorer_start
    .hidden icecore_restorer_start
    .globl  icecore_restorer_end
    .hidden icecore_restorer_end
    icecore_restorer_start:
        ICECORE_RUN_SCRIPT 204f
    204:
        int3
        jmp     icecore_restorer_start
    .balign 8
    icecore_restorer_end:
    .popsection
    .purgem ICECORE_RUN_SCRIPT
    "#
);

/// Where, in bytes from its start, the restorer is entered.
pub const RESTORER_ENTRY: u64 = 0;

/// The restorer's code, position-independent.
pub fn restorer() -> &'static [u8] {
    unsafe extern "C" {
        static icecore_restorer_start: u8;
        static icecore_restorer_end: u8;
    }
    let start = &raw const icecore_restorer_start;
    let end = &raw const icecore_restorer_end;
    // SAFETY: both labels delimit one run of read-only bytes in this program.
    unsafe { core::slice::from_raw_parts(start, end.offset_from(start) as usize) }
}
