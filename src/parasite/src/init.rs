//! The init of a pid namespace made for a restored tree: reaps whatever ends,
//! and ends itself with the root's exit status (128 and the signal's number if
//! one killed it) when nothing is left to reap and nobody else is in the
//! namespace (a dump from inside ends the task, and still has to say so).
//!
//! Protocol: the bytes of [`init`] lie anywhere in an executable area. `rip` is
//! the first byte, `r14` the root's pid in the namespace, `r15` sixteen writable
//! bytes; all signals are blocked.

core::arch::global_asm!(
    r#"
    .pushsection .rodata.icecore_init, "a", @progbits
    .balign 16
    .globl  icecore_init_start
    .hidden icecore_init_start
    .globl  icecore_init_end
    .hidden icecore_init_end
    icecore_init_start:
        xor     r13d, r13d
    302:
        // wait4(-1, r15, __WALL, NULL)
        mov     eax, 61
        mov     rdi, -1
        mov     rsi, r15
        mov     edx, 0x40000000
        xor     r10d, r10d
        syscall
        cmp     rax, -10            // ECHILD
        je      303f
        cmp     rax, r14
        jne     302b
        mov     r13d, [r15]
        jmp     302b
    303:
        // Others may have come in from outside: with the last of us the kernel
        // would kill them. kill(-1, 0) tells whether there are any.
        mov     eax, 62
        mov     rdi, -1
        xor     esi, esi
        syscall
        test    rax, rax
        jnz     305f
        // nanosleep of 10 ms
        mov     qword ptr [r15], 0
        mov     qword ptr [r15 + 8], 10000000
        mov     eax, 35
        mov     rdi, r15
        xor     esi, esi
        syscall
        jmp     302b
    305:
        mov     edi, r13d
        shr     edi, 8
        and     edi, 0xff
        and     r13d, 0x7f
        jz      304f
        lea     edi, [r13 + 128]
    304:
        mov     eax, 231            // exit_group
        syscall
        ud2
    .balign 8
    icecore_init_end:
    .popsection
    "#
);

/// The code, position-independent.
pub fn init() -> &'static [u8] {
    unsafe extern "C" {
        static icecore_init_start: u8;
        static icecore_init_end: u8;
    }
    let start = &raw const icecore_init_start;
    let end = &raw const icecore_init_end;
    // SAFETY: both labels delimit one run of read-only bytes in this program.
    unsafe { core::slice::from_raw_parts(start, end.offset_from(start) as usize) }
}
