//! A loop that fails if any general register, flag or SSE register changes
//! under it.

use std::arch::global_asm;

global_asm!(
    r#"
    .globl icecore_test_spin
    icecore_test_spin:
        push    rbx
        push    rbp
        push    r12
        push    r13
        push    r14
        push    r15
        .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        mov     eax, 0x5a000000 + \n
        movq    xmm\n, rax
        .endr
        .irp n, 8,9,10,11,12,13,14,15
        mov     r\n, 0x3a000000 + \n
        .endr
        mov     rbx, 0x3a000001
        mov     rdx, 0x3a000002
        mov     rsi, 0x3a000003
        mov     rdi, 0x3a000004
        mov     rbp, 0x3a000005
        mov     eax, 0x7f
        // Carry, adjust, sign, direction and overflow set, the others not.
        add     al, 1
        stc
        std
        mov     ecx, 300000
    2:
        lea     rcx, [rcx - 1]
        jrcxz   3f
        jmp     2b
    3:
        pushfq
        pop     rcx
        cld
        and     ecx, 0xcd5
        cmp     ecx, 0xc91
        jne     9f
        cmp     rax, 0x80
        jne     9f
        cmp     rbx, 0x3a000001
        jne     9f
        cmp     rdx, 0x3a000002
        jne     9f
        cmp     rsi, 0x3a000003
        jne     9f
        cmp     rdi, 0x3a000004
        jne     9f
        cmp     rbp, 0x3a000005
        jne     9f
        .irp n, 8,9,10,11,12,13,14,15
        cmp     r\n, 0x3a000000 + \n
        jne     9f
        .endr
        .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        movq    rcx, xmm\n
        cmp     rcx, 0x5a000000 + \n
        jne     9f
        .endr
        xor     eax, eax
        jmp     4f
    9:
        mov     eax, 1
    4:
        pop     r15
        pop     r14
        pop     r13
        pop     r12
        pop     rbp
        pop     rbx
        ret
    "#
);

unsafe extern "C" {
    fn icecore_test_spin() -> u32;
}

/// Spins for about 200 µs.
pub(crate) fn spin() -> Result<(), String> {
    // SAFETY: it follows the C calling convention and touches only its stack.
    match unsafe { icecore_test_spin() } {
        0 => Ok(()),
        _ => Err("a register or flag has changed".to_owned()),
    }
}
