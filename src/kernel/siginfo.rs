//! `siginfo_t` of x86_64 as 128 bytes.

/// Bytes of a siginfo.
pub(crate) const LEN: usize = 128;

const SIGNO: usize = 0;
const CODE: usize = 8;
/// Timer id (si_code SI_TIMER), or pid of the sender.
const TIMER_ID: usize = 16;
const VALUE: usize = 24;

fn i32_at(info: &[u8], at: usize) -> i32 {
    let mut half = [0; 4];
    if let Some(bytes) = info.get(at..at + 4) {
        half.copy_from_slice(bytes);
    }
    i32::from_le_bytes(half)
}

fn u64_at(info: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    if let Some(bytes) = info.get(at..at + 8) {
        word.copy_from_slice(bytes);
    }
    u64::from_le_bytes(word)
}

/// Signal number.
pub(crate) fn signal(info: &[u8]) -> u32 {
    i32_at(info, SIGNO).max(0) as u32
}

/// The signal as a bit in a mask; 0 for a number that is no signal.
pub(crate) fn mask_of(info: &[u8]) -> u64 {
    match signal(info) {
        n @ 1..=64 => 1 << (n - 1),
        _ => 0,
    }
}

/// SI_*.
pub(crate) fn code(info: &[u8]) -> i32 {
    i32_at(info, CODE)
}

/// The timer that sent it, where the code is SI_TIMER.
pub(crate) fn timer_id(info: &[u8]) -> u32 {
    i32_at(info, TIMER_ID) as u32
}

/// `si_value`.
pub(crate) fn value(info: &[u8]) -> u64 {
    u64_at(info, VALUE)
}

/// What the kernel delivers for a pending signal that has no siginfo: sent by
/// nobody (SI_USER, pid 0, uid 0).
pub(crate) fn without_cause(signal: u32) -> [u8; LEN] {
    let mut info = [0; LEN];
    info[SIGNO..SIGNO + 4].copy_from_slice(&signal.to_le_bytes());
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_libc_has_them() {
        let info = without_cause(34);
        assert_eq!(signal(&info), 34);
        assert_eq!(mask_of(&info), 1 << 33);
        assert_eq!(code(&info), libc::SI_USER);
        assert_eq!(LEN, size_of::<libc::siginfo_t>());
        assert_eq!(SIGNO, std::mem::offset_of!(libc::siginfo_t, si_signo));
        assert_eq!(CODE, std::mem::offset_of!(libc::siginfo_t, si_code));
    }

    #[test]
    fn numbers_that_are_no_signal_have_no_bit() {
        assert_eq!(mask_of(&without_cause(0)), 0);
        assert_eq!(mask_of(&without_cause(65)), 0);
        assert_eq!(mask_of(b""), 0);
    }
}
