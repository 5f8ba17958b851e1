//! Names of anonymous memory (PR_SET_VMA).

const PR_SET_VMA: libc::c_int = 0x5356_4d41;
const PR_SET_VMA_ANON_NAME: libc::c_ulong = 0;

/// Whether this kernel keeps names (CONFIG_ANON_VMA_NAME).
pub fn are_kept() -> bool {
    // SAFETY: naming an empty range changes nothing; only a kernel without
    // names finds fault with it.
    unsafe { libc::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, 0_u64, 0_u64, 0_u64) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_is_what_happens() {
        let buffer = vec![0_u8; 3 * 4096];
        let start = (buffer.as_ptr() as u64).next_multiple_of(4096);
        let name = c"icecore";
        // SAFETY: names a page of our own buffer; the name is a C string.
        let named = unsafe {
            let address = name.as_ptr() as u64;
            libc::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, start, 4096_u64, address) == 0
        };
        assert_eq!(are_kept(), named);
    }
}
