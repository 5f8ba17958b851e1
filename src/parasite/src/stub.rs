//! The stub: runs a script inside a living target and leads home by itself,
//! with or without a tracer, from every one of its instructions.
//!
//! It lies in the unused tail of the target's vDSO and never writes to it: what
//! it needs to know are constants behind its code, what it needs to remember is
//! in registers. It never uses the stack, which may be a goroutine's.
//!
//! Road: block all signals → mmap the area → (the tracer puts a script there)
//! → run the script → send itself a signal that it ignores, which only a tracer
//! notices → (the tracer fetches the results) → munmap the area → where a
//! system call was interrupted, ask ppoll whether a signal must interrupt it →
//! signal mask → flags, registers → jump to where the target was.
//!
//! Which signals must is a matter of their handlers' SA_RESTART, which only the
//! target can tell. In the visit that is to find out, a stub without a tracer
//! asks for itself: rt_sigaction for each, then ppoll, then munmap.

use core::mem::{offset_of, size_of};

core::arch::global_asm!(
    run_script!(),
    r#"
    // Home: constants into all registers, \rax being one constant's offset and
    // \rip another's.
    .macro ICECORE_HOME rax, rip
        mov     rdi, [rip + icecore_stub_constants + {home} + 0]
        mov     rsi, [rip + icecore_stub_constants + {home} + 8]
        mov     rdx, [rip + icecore_stub_constants + {home} + 16]
        mov     rcx, [rip + icecore_stub_constants + {home} + 24]
        mov     rbx, [rip + icecore_stub_constants + {home} + 32]
        mov     rbp, [rip + icecore_stub_constants + {home} + 40]
        mov     r8,  [rip + icecore_stub_constants + {home} + 48]
        mov     r9,  [rip + icecore_stub_constants + {home} + 56]
        mov     r10, [rip + icecore_stub_constants + {home} + 64]
        mov     r11, [rip + icecore_stub_constants + {home} + 72]
        mov     r12, [rip + icecore_stub_constants + {home} + 80]
        mov     r13, [rip + icecore_stub_constants + {home} + 88]
        mov     r14, [rip + icecore_stub_constants + {home} + 96]
        mov     r15, [rip + icecore_stub_constants + {home} + 104]
        // Direction, then overflow (0x7f + 1 overflows, 0 + 1 does not), then
        // the five flags that sahf sets without touching those two.
        cld
        test    byte ptr [rip + icecore_stub_constants + {home_flags} + 1], 4
        jz      213f
        std
    213:
        mov     al, [rip + icecore_stub_constants + {overflow}]
        add     al, 1
        mov     ah, [rip + icecore_stub_constants + {home_flags}]
        sahf
        mov     rax, [rip + icecore_stub_constants + \rax]
        jmp     [rip + icecore_stub_constants + \rip]
    .endm

    .pushsection .rodata.icecore_stub, "a", @progbits
    .balign 16
    .globl  icecore_stub_start
    .hidden icecore_stub_start
    .globl  icecore_stub_mapped
    .hidden icecore_stub_mapped
    .globl  icecore_stub_unmapped
    .hidden icecore_stub_unmapped
    .globl  icecore_stub_blocked
    .hidden icecore_stub_blocked
    .globl  icecore_stub_asked
    .hidden icecore_stub_asked
    .globl  icecore_stub_unblocked
    .hidden icecore_stub_unblocked
    .globl  icecore_stub_notified
    .hidden icecore_stub_notified
    .globl  icecore_stub_told
    .hidden icecore_stub_told
    .globl  icecore_stub_constants
    .hidden icecore_stub_constants
    icecore_stub_start:
        .ascii  "icecore stub 1\0\0"
        xor     r15d, r15d
        // rt_sigprocmask(SIG_SETMASK, all, NULL, 8)
        mov     eax, 14
        mov     edi, 2
        lea     rsi, [rip + icecore_stub_constants + {all_signals}]
        xor     edx, edx
        mov     r10d, 8
        syscall
    icecore_stub_blocked:
        // mmap(NULL, len, READ|WRITE, PRIVATE|ANONYMOUS, -1, 0)
        mov     eax, 9
        xor     edi, edi
        mov     rsi, [rip + icecore_stub_constants + {area_len}]
        mov     edx, 3
        mov     r10d, 0x22
        mov     r8, -1
        xor     r9d, r9d
        syscall
    icecore_stub_mapped:
        cmp     rax, -4095
        jae     226f
        mov     rbx, rax
        ICECORE_RUN_SCRIPT 225f
    225:
        // tgkill(tgid, tid, notify)
        mov     edx, [rip + icecore_stub_constants + {notify}]
        test    edx, edx
        jz      229f
        mov     eax, 234
        mov     edi, [rip + icecore_stub_constants + {tgid}]
        mov     esi, [rip + icecore_stub_constants + {tid}]
        syscall
    icecore_stub_notified:
    229:
        mov     r14, [rip + icecore_stub_constants + {ask_mask}]
        mov     r13, r14
        not     r13
    231:
        // A tracer may have told meanwhile.
        test    byte ptr [rip + icecore_stub_constants + {ask}], 2
        jz      230f
        bsf     r12, r13
        jz      232f
        btr     r13, r12
        // rt_sigaction(signal, NULL, area, 8)
        mov     eax, 13
        lea     edi, [r12 + 1]
        xor     esi, esi
        mov     rdx, rbx
        mov     r10d, 8
        syscall
    icecore_stub_told:
        test    eax, eax
        jnz     231b
        test    dword ptr [rbx + 8], {sa_restart}
        jz      231b
        bts     r14, r12
        jmp     231b
    232:
        mov     [rbx], r14
        // ppoll(NULL, 0, {{0, 0}}, area, 8)
        mov     eax, 271
        xor     edi, edi
        xor     esi, esi
        lea     rdx, [rip + icecore_stub_constants + {no_time}]
        mov     r10, rbx
        mov     r8d, 8
        syscall
        mov     r15, rax
        // munmap(area, len)
        mov     eax, 11
        mov     rdi, rbx
        mov     rsi, [rip + icecore_stub_constants + {area_len}]
        syscall
        jmp     227f
    230:
        // munmap(area, len)
        mov     eax, 11
        mov     rdi, rbx
        mov     rsi, [rip + icecore_stub_constants + {area_len}]
        syscall
    icecore_stub_unmapped:
    226:
        cmp     qword ptr [rip + icecore_stub_constants + {ask}], 0
        je      227f
        // ppoll(NULL, 0, {{0, 0}}, interrupting, 8)
        mov     eax, 271
        xor     edi, edi
        xor     esi, esi
        lea     rdx, [rip + icecore_stub_constants + {no_time}]
        lea     r10, [rip + icecore_stub_constants + {ask_mask}]
        mov     r8d, 8
        syscall
    icecore_stub_asked:
        mov     r15, rax
    227:
        // rt_sigprocmask(SIG_SETMASK, original, NULL, 8)
        mov     eax, 14
        mov     edi, 2
        lea     rsi, [rip + icecore_stub_constants + {signal_mask}]
        xor     edx, edx
        mov     r10d, 8
        syscall
    icecore_stub_unblocked:
        cmp     r15, -4
        je      228f
        ICECORE_HOME {home_rax}, {home_rip}
    228:
        ICECORE_HOME {eintr_rax}, {eintr_rip}
    .balign 8
    icecore_stub_constants:
    .popsection
    .purgem ICECORE_RUN_SCRIPT
    "#,
    all_signals = const offset_of!(StubConstants, all_signals),
    area_len = const offset_of!(StubConstants, area_len),
    notify = const offset_of!(StubConstants, notify),
    tgid = const offset_of!(StubConstants, tgid),
    tid = const offset_of!(StubConstants, tid),
    ask = const offset_of!(StubConstants, ask),
    ask_mask = const offset_of!(StubConstants, ask_mask),
    sa_restart = const 0x1000_0000,
    no_time = const offset_of!(StubConstants, no_time),
    signal_mask = const offset_of!(StubConstants, signal_mask),
    overflow = const offset_of!(StubConstants, overflow),
    home = const offset_of!(StubConstants, home),
    home_flags = const offset_of!(StubConstants, home) + offset_of!(Home, flags),
    home_rax = const offset_of!(StubConstants, home) + offset_of!(Home, rax),
    home_rip = const offset_of!(StubConstants, home) + offset_of!(Home, rip),
    eintr_rax = const offset_of!(StubConstants, eintr_rax),
    eintr_rip = const offset_of!(StubConstants, eintr_rip),
);

/// First bytes of a stub, by which one left by a killed run is recognised.
pub const STUB_MAGIC: [u8; 16] = *b"icecore stub 1\0\0";

/// Value of [`StubConstants::ask`]: the mask says which signals must interrupt.
pub const ASK: u64 = 1;
/// Value of [`StubConstants::ask`]: of the signals that the mask leaves open
/// those must interrupt whose handlers do not have calls restarted.
pub const ASK_UNTOLD: u64 = 2;

/// What the stub knows; all words little-endian.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StubConstants {
    /// The mask that blocks everything but `notify`.
    pub all_signals: u64,
    /// Bytes of the area, whole pages.
    pub area_len: u64,
    /// A signal that is ignored and not blocked; 0: none.
    pub notify: u64,
    /// The task as it sees itself.
    pub tgid: u64,
    /// The thread as it sees itself.
    pub tid: u64,
    /// [`ASK`]: ask ppoll on the way home whether a signal must interrupt the
    /// call; [`ASK_UNTOLD`]: find out first whose handlers have no SA_RESTART.
    pub ask: u64,
    /// Signals to keep blocked while asking.
    pub ask_mask: u64,
    /// A `timespec` of zero.
    pub no_time: [u64; 2],
    /// The target's signal mask.
    pub signal_mask: u64,
    /// 0x7f where the overflow flag is set at home, else 0.
    pub overflow: u64,
    /// Registers at home.
    pub home: Home,
    /// `rax` at home where a signal interrupted the call.
    pub eintr_rax: u64,
    /// `rip` at home where a signal interrupted the call.
    pub eintr_rip: u64,
    /// A `timespec` for a call that is issued again with the time that remains.
    pub timeout: [u64; 2],
}

/// General registers that the stub restores; `rsp` never changes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Home {
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rax: u64,
    pub rip: u64,
    pub flags: u64,
}

const _: () = assert!(offset_of!(Home, r15) == 104);
const _: () = assert!(size_of::<StubConstants>() == 256);

impl StubConstants {
    /// The constants as they lie in memory.
    pub fn to_bytes(&self) -> [u8; size_of::<StubConstants>()] {
        // SAFETY: repr(C), only u64 fields: no padding, every byte is set.
        unsafe { core::mem::transmute_copy(self) }
    }
}

/// Places in the stub, in bytes from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StubLayout {
    /// Where it is entered.
    pub entry: u64,
    /// The instruction after its first call, which blocks signals.
    pub blocked: u64,
    /// The instruction after its mmap.
    pub mapped: u64,
    /// The instruction after its tgkill.
    pub notified: u64,
    /// The instruction after its rt_sigaction.
    pub told: u64,
    /// The instruction after its munmap.
    pub unmapped: u64,
    /// The instruction after its ppoll.
    pub asked: u64,
    /// The instruction after its last call, which sets the signal mask.
    pub unblocked: u64,
    /// Its constants.
    pub constants: u64,
    /// Its length, constants included.
    pub len: u64,
}

unsafe extern "C" {
    static icecore_stub_start: u8;
    static icecore_stub_mapped: u8;
    static icecore_stub_unmapped: u8;
    static icecore_stub_blocked: u8;
    static icecore_stub_asked: u8;
    static icecore_stub_unblocked: u8;
    static icecore_stub_notified: u8;
    static icecore_stub_told: u8;
    static icecore_stub_constants: u8;
}

/// The stub's code, position-independent; its [`StubConstants`] follow it.
pub fn stub() -> &'static [u8] {
    let start = &raw const icecore_stub_start;
    // SAFETY: the labels delimit one run of read-only bytes in this program.
    unsafe { core::slice::from_raw_parts(start, stub_layout().constants as usize) }
}

/// Where things are in the stub.
pub fn stub_layout() -> StubLayout {
    let offset = |label: *const u8| label as u64 - &raw const icecore_stub_start as u64;
    let constants = offset(&raw const icecore_stub_constants);
    StubLayout {
        entry: STUB_MAGIC.len() as u64,
        blocked: offset(&raw const icecore_stub_blocked),
        mapped: offset(&raw const icecore_stub_mapped),
        notified: offset(&raw const icecore_stub_notified),
        told: offset(&raw const icecore_stub_told),
        unmapped: offset(&raw const icecore_stub_unmapped),
        asked: offset(&raw const icecore_stub_asked),
        unblocked: offset(&raw const icecore_stub_unblocked),
        constants,
        len: constants + size_of::<StubConstants>() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stub_fits_into_the_tail_of_the_vdso() {
        assert_eq!(stub()[..16], STUB_MAGIC);
        assert!(stub_layout().len < 1024, "{:?}", stub_layout());
    }
}
