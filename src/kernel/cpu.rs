//! What this CPU can do, as far as user programs see it.

use std::arch::x86_64::__cpuid_count;

use icecore_images::thread::XComponent;

/// CPUID leaves whose words are kept in an image: leaf, subleaf. Each gives
/// four words (eax, ebx, ecx, edx), in this order.
const LEAVES: [(u32, u32); 6] = [
    (1, 0),
    (7, 0),
    (7, 1),
    (0xd, 1),
    (0x8000_0001, 0),
    (0x8000_0008, 0),
];

/// Instructions that user programs choose by CPUID: index into the words, bit,
/// name as in /proc/cpuinfo.
const NAMES: &[(usize, u32, &str)] = &[
    (2, 0, "pni"),
    (2, 1, "pclmulqdq"),
    (2, 9, "ssse3"),
    (2, 12, "fma"),
    (2, 13, "cx16"),
    (2, 19, "sse4_1"),
    (2, 20, "sse4_2"),
    (2, 22, "movbe"),
    (2, 23, "popcnt"),
    (2, 25, "aes"),
    (2, 26, "xsave"),
    (2, 27, "osxsave"),
    (2, 28, "avx"),
    (2, 29, "f16c"),
    (2, 30, "rdrand"),
    (3, 19, "clflush"),
    (3, 23, "mmx"),
    (3, 24, "fxsr"),
    (3, 25, "sse"),
    (3, 26, "sse2"),
    (5, 0, "fsgsbase"),
    (5, 3, "bmi1"),
    (5, 4, "hle"),
    (5, 5, "avx2"),
    (5, 8, "bmi2"),
    (5, 9, "erms"),
    (5, 11, "rtm"),
    (5, 16, "avx512f"),
    (5, 17, "avx512dq"),
    (5, 18, "rdseed"),
    (5, 19, "adx"),
    (5, 21, "avx512ifma"),
    (5, 23, "clflushopt"),
    (5, 24, "clwb"),
    (5, 26, "avx512pf"),
    (5, 27, "avx512er"),
    (5, 28, "avx512cd"),
    (5, 29, "sha_ni"),
    (5, 30, "avx512bw"),
    (5, 31, "avx512vl"),
    (6, 1, "avx512vbmi"),
    (6, 4, "ospke"),
    (6, 5, "waitpkg"),
    (6, 6, "avx512_vbmi2"),
    (6, 8, "gfni"),
    (6, 9, "vaes"),
    (6, 10, "vpclmulqdq"),
    (6, 11, "avx512_vnni"),
    (6, 12, "avx512_bitalg"),
    (6, 14, "avx512_vpopcntdq"),
    (6, 22, "rdpid"),
    (6, 25, "cldemote"),
    (6, 27, "movdiri"),
    (6, 28, "movdir64b"),
    (7, 2, "avx512_4vnniw"),
    (7, 3, "avx512_4fmaps"),
    (7, 4, "fsrm"),
    (7, 8, "avx512_vp2intersect"),
    (7, 14, "serialize"),
    (7, 22, "amx_bf16"),
    (7, 23, "avx512_fp16"),
    (7, 24, "amx_tile"),
    (7, 25, "amx_int8"),
    (8, 4, "avx_vnni"),
    (8, 5, "avx512_bf16"),
    (8, 10, "fzrm"),
    (8, 11, "fsrs"),
    (8, 12, "fsrc"),
    (8, 21, "amx_fp16"),
    (8, 23, "avx_ifma"),
    (12, 0, "xsaveopt"),
    (12, 1, "xsavec"),
    (18, 0, "lahf_lm"),
    (18, 5, "abm"),
    (18, 6, "sse4a"),
    (18, 8, "3dnowprefetch"),
    (18, 11, "xop"),
    (18, 16, "fma4"),
    (18, 21, "tbm"),
    (19, 22, "mmxext"),
    (19, 27, "rdtscp"),
    (19, 30, "3dnowext"),
    (19, 31, "3dnow"),
    (21, 0, "clzero"),
];

/// CPUID words of this CPU, four for each of the leaves.
pub(crate) fn features() -> Vec<u32> {
    LEAVES.into_iter().flat_map(|(l, s)| leaf(l, s)).collect()
}

fn leaf(leaf: u32, subleaf: u32) -> [u32; 4] {
    let highest = __cpuid_count(leaf & 0x8000_0000, 0).eax;
    if leaf > highest {
        return [0; 4];
    }
    let r = __cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// Names of the features that `wanted` has and `here` lacks. Missing words
/// count as zero.
pub(crate) fn missing(wanted: &[u32], here: &[u32]) -> Vec<&'static str> {
    let has = |words: &[u32], (word, bit): (usize, u32)| {
        words.get(word).is_some_and(|w| w & (1 << bit) != 0)
    };
    NAMES
        .iter()
        .filter(|&&(w, b, _)| has(wanted, (w, b)) && !has(here, (w, b)))
        .map(|&(_, _, name)| name)
        .collect()
}

/// Vendor and model, for people.
pub(crate) fn model() -> String {
    let mut name = Vec::new();
    for n in 0x8000_0002..=0x8000_0004 {
        name.extend(leaf(n, 0).into_iter().flat_map(u32::to_le_bytes));
    }
    let name = String::from_utf8_lossy(&name);
    name.trim_matches(|c: char| c == '\0' || c.is_whitespace())
        .to_owned()
}

/// Where this CPU keeps each extended-state component of `xcr0` beyond x87 and
/// SSE in the standard format.
pub(crate) fn xsave_layout(xcr0: u64) -> Vec<XComponent> {
    (2..63)
        .filter(|bit| xcr0 & (1 << bit) != 0)
        .map(|bit| {
            let r = __cpuid_count(0xd, bit);
            XComponent {
                number: bit,
                offset: r.ebx,
                size: r.eax,
            }
        })
        .collect()
}

/// The extended-state components that this CPU has, as bits of XCR0. The kernel
/// may have enabled fewer.
pub(crate) fn xcr0_possible() -> u64 {
    let r = leaf(0xd, 0);
    u64::from(r[0]) | u64::from(r[3]) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_lacks_nothing_of_itself() {
        let here = features();
        assert_eq!(here.len(), LEAVES.len() * 4);
        assert!(missing(&here, &here).is_empty());
        let without: Vec<u32> = here.iter().map(|_| 0).collect();
        assert!(missing(&here, &without).contains(&"sse2"));
    }

    #[test]
    fn agrees_with_cpuinfo() -> std::io::Result<()> {
        let info = std::fs::read_to_string("/proc/cpuinfo")?;
        let flags = info.lines().find(|l| l.starts_with("flags"));
        let flags: Vec<&str> = flags.unwrap_or_default().split_whitespace().collect();
        let named = missing(&features(), &[]);
        for name in [
            "avx2", "sse4_2", "bmi2", "avx512f", "popcnt", "gfni", "rdpid",
        ] {
            assert_eq!(named.contains(&name), flags.contains(&name), "{name}");
        }
        Ok(())
    }

    #[test]
    fn avx_lies_behind_the_legacy_area() {
        let avx = xsave_layout(0b111);
        assert_eq!((avx[0].number, avx[0].offset, avx[0].size), (2, 576, 256));
    }
}
