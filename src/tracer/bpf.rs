//! Classic BPF as seccomp allows it, evaluated as the kernel would.

use super::peek::SockFilter;

/// `struct seccomp_data` of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SeccompData {
    /// System call number.
    pub(super) nr: u32,
    /// Address of the instruction after the system call.
    pub(super) ip: u64,
    /// Arguments.
    pub(super) args: [u64; 6],
}

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

impl SeccompData {
    /// The 32-bit word at a byte offset.
    fn word(&self, offset: u32) -> Option<u32> {
        let half = |v: u64| match offset & 4 {
            0 => v as u32,
            _ => (v >> 32) as u32,
        };
        match offset {
            0 => Some(self.nr),
            4 => Some(AUDIT_ARCH_X86_64),
            8 | 12 => Some(half(self.ip)),
            16..=60 if offset.is_multiple_of(4) => {
                Some(half(self.args[(offset as usize - 16) / 8]))
            }
            _ => None,
        }
    }
}

// Instruction classes and fields of linux/bpf_common.h.
const LD: u16 = 0;
const LDX: u16 = 1;
const ST: u16 = 2;
const STX: u16 = 3;
const ALU: u16 = 4;
const JMP: u16 = 5;
const RET: u16 = 6;
const MISC: u16 = 7;
const IMM: u16 = 0x00;
const ABS: u16 = 0x20;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
const BY_X: u16 = 0x08;
const RET_A: u16 = 0x10;
const TXA: u16 = 0x80;

/// Runs a program; `None` for one that the kernel would not have accepted.
pub(super) fn run(program: &[SockFilter], data: &SeccompData) -> Option<u32> {
    let mut machine = Machine::default();
    // Jumps only lead forward: it ends.
    while let Some(&(code, jt, jf, k)) = program.get(machine.at) {
        machine.at += 1;
        match code & 7 {
            LD => machine.a = machine.load(code, k, data)?,
            LDX => machine.x = machine.load(code, k, data)?,
            ST => *machine.memory.get_mut(k as usize)? = machine.a,
            STX => *machine.memory.get_mut(k as usize)? = machine.x,
            ALU => machine.a = machine.compute(code, k)?,
            JMP => machine.at += machine.jump(code, jt, jf, k)?,
            RET if code & 0x18 == RET_A => return Some(machine.a),
            RET => return Some(k),
            MISC if code & 0xf8 == TXA => machine.a = machine.x,
            _ => machine.x = machine.a,
        }
    }
    None
}

#[derive(Debug, Default)]
struct Machine {
    at: usize,
    a: u32,
    x: u32,
    memory: [u32; 16],
}

impl Machine {
    fn load(&self, code: u16, k: u32, data: &SeccompData) -> Option<u32> {
        match code & 0xe0 {
            IMM => Some(k),
            ABS => data.word(k),
            MEM => self.memory.get(k as usize).copied(),
            LEN => Some(64),
            _ => None,
        }
    }

    fn operand(&self, code: u16, k: u32) -> u32 {
        if code & BY_X != 0 { self.x } else { k }
    }

    fn compute(&self, code: u16, k: u32) -> Option<u32> {
        let (a, b) = (self.a, self.operand(code, k));
        match code & 0xf0 {
            0x00 => Some(a.wrapping_add(b)),
            0x10 => Some(a.wrapping_sub(b)),
            0x20 => Some(a.wrapping_mul(b)),
            // Dividing by zero ends a filter with 0, which kills.
            0x30 => Some(a.checked_div(b).unwrap_or(0)),
            0x40 => Some(a | b),
            0x50 => Some(a & b),
            0x60 => Some(a.wrapping_shl(b)),
            0x70 => Some(a.wrapping_shr(b)),
            0x80 => Some(a.wrapping_neg()),
            0xa0 => Some(a ^ b),
            _ => None,
        }
    }

    /// How many instructions are jumped over.
    fn jump(&self, code: u16, jt: u8, jf: u8, k: u32) -> Option<usize> {
        let b = self.operand(code, k);
        let taken = match code & 0xf0 {
            0x00 => return Some(k as usize),
            0x10 => self.a == b,
            0x20 => self.a > b,
            0x30 => self.a >= b,
            0x40 => self.a & b != 0,
            _ => return None,
        };
        Some(usize::from(if taken { jt } else { jf }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: u32 = 0x7fff_0000;
    const KILL: u32 = 0x8000_0000;

    fn call(nr: u32, first: u64) -> SeccompData {
        SeccompData {
            nr,
            ip: 0x7fff_0000_1234,
            args: [first, 0, 0, 0, 0, u64::MAX],
        }
    }

    #[test]
    fn a_filter_by_number_and_argument() {
        let program = [
            (0x20, 0, 0, 4),                 // A = arch
            (0x15, 1, 0, AUDIT_ARCH_X86_64), // if it is ours, skip one
            (0x06, 0, 0, KILL),
            (0x20, 0, 0, 0),  // A = nr
            (0x15, 0, 3, 9),  // mmap?
            (0x20, 0, 0, 16), // A = low half of the first argument
            (0x45, 0, 1, 4),  // bit 2?
            (0x06, 0, 0, KILL),
            (0x06, 0, 0, ALLOW),
        ];
        assert_eq!(run(&program, &call(9, 4)), Some(KILL));
        assert_eq!(run(&program, &call(9, 3)), Some(ALLOW));
        assert_eq!(run(&program, &call(10, 4)), Some(ALLOW));
    }

    #[test]
    fn arithmetic_memory_and_the_rest_of_the_data() {
        let program = [
            (0x20, 0, 0, 12), // A = high half of ip
            (0x02, 0, 0, 3),  // M[3] = A
            (0x61, 0, 0, 3),  // X = M[3]
            (0x00, 0, 0, 1),  // A = 1
            (0x0c, 0, 0, 0),  // A += X
            (0x64, 0, 0, 4),  // A <<= 4
            (0x07, 0, 0, 0),  // X = A
            (0x80, 0, 0, 0),  // A = len
            (0xac, 0, 0, 0),  // A ^= X
            (0x05, 0, 0, 1),  // jump over one
            (0x06, 0, 0, KILL),
            (0x16, 0, 0, 0), // return A
        ];
        assert_eq!(run(&program, &call(1, 0)), Some((0x7fff + 1) << 4 ^ 64));
        let last_argument = [(0x20, 0, 0, 60), (0x16, 0, 0, 0)];
        assert_eq!(run(&last_argument, &call(1, 0)), Some(u32::MAX));
    }

    #[test]
    fn what_the_kernel_would_not_accept_is_no_answer() {
        assert_eq!(run(&[], &call(1, 0)), None);
        assert_eq!(run(&[(0x20, 0, 0, 64), (0x16, 0, 0, 0)], &call(1, 0)), None);
        assert_eq!(run(&[(0x02, 0, 0, 16)], &call(1, 0)), None);
        assert_eq!(run(&[(0x05, 0, 0, u32::MAX)], &call(1, 0)), None);
    }
}
