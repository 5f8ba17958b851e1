//! The vDSO: the small shared object the kernel maps into every process.

use goblin::elf::Elf;
use goblin::elf::sym::STT_FUNC;

use super::maps::Area;

/// Names of the areas that belong to the vDSO and move together with it.
pub const NAMES: [&[u8]; 3] = [b"[vvar]", b"[vvar_vclock]", b"[vdso]"];

/// What matters of a vDSO's ELF image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vdso {
    /// Bytes of the ELF image; what follows in its last page is unused.
    pub elf_len: usize,
    /// CRC-32 of these bytes.
    pub checksum: u32,
    /// Functions by name, with their offset from the image's start.
    pub symbols: Vec<(Vec<u8>, u64)>,
}

/// A vDSO that is no ELF image as the kernel makes them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VdsoError {
    /// It could not be parsed.
    #[error("parse the vDSO")]
    Parse(#[from] goblin::error::Error),
    /// Its headers speak of bytes that are not there.
    #[error("the vDSO's headers reach beyond its {len} bytes")]
    Truncated {
        /// Bytes of the area.
        len: usize,
    },
}

impl Vdso {
    /// Looks at the contents of a `[vdso]` area.
    pub fn parse(area: &[u8]) -> Result<Self, VdsoError> {
        let elf = Elf::parse(area)?;
        let elf_len = usize::try_from(elf_end(&elf))
            .ok()
            .filter(|&len| len <= area.len())
            .ok_or(VdsoError::Truncated { len: area.len() })?;
        let mut symbols: Vec<_> = elf
            .dynsyms
            .iter()
            .filter(|sym| sym.st_type() == STT_FUNC && sym.st_value != 0)
            .filter_map(|sym| Some((elf.dynstrtab.get_at(sym.st_name)?, sym.st_value)))
            .map(|(name, value)| (name.as_bytes().to_vec(), value))
            .collect();
        symbols.sort();
        Ok(Self {
            elf_len,
            checksum: crc32fast::hash(&area[..elf_len]),
            symbols,
        })
    }
}

/// The end of whatever part of the image comes last.
fn elf_end(elf: &Elf<'_>) -> u64 {
    let header = &elf.header;
    let table = header
        .e_shoff
        .saturating_add(u64::from(header.e_shnum) * u64::from(header.e_shentsize));
    let segments = elf
        .program_headers
        .iter()
        .map(|p| p.p_offset.saturating_add(p.p_filesz));
    segments.chain([table]).max().unwrap_or(0)
}

/// The areas of the vDSO among a task's, by address.
pub fn areas(all: &[Area]) -> Vec<&Area> {
    all.iter()
        .filter(|a| NAMES.contains(&a.name.as_slice()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn our_own() -> Vec<u8> {
        let maps = super::super::maps::read_maps(std::process::id()).unwrap();
        let areas = areas(&maps);
        let vdso = areas.iter().find(|a| a.name == b"[vdso]").unwrap();
        let mut bytes = vec![0; vdso.len() as usize];
        let mem = std::fs::File::open("/proc/self/mem").unwrap();
        mem.read_exact_at(&mut bytes, vdso.start).unwrap();
        bytes
    }

    #[test]
    fn our_own_has_the_clock_and_room_at_its_end() {
        let bytes = our_own();
        let vdso = Vdso::parse(&bytes).unwrap();
        let clock = b"__vdso_clock_gettime".to_vec();
        assert!(vdso.symbols.iter().any(|(name, _)| *name == clock));
        assert!(vdso.elf_len > 1000 && vdso.elf_len <= bytes.len());
        assert!(bytes[vdso.elf_len..].iter().all(|&b| b == 0));
    }

    #[test]
    fn the_tail_does_not_change_the_checksum() {
        let mut bytes = our_own();
        let before = Vdso::parse(&bytes).unwrap();
        bytes[before.elf_len..].fill(0xcc);
        assert_eq!(Vdso::parse(&bytes).unwrap(), before);
        bytes[before.elf_len - 1] ^= 1;
        assert_ne!(Vdso::parse(&bytes).unwrap().checksum, before.checksum);
    }

    #[test]
    fn a_cut_one_is_an_error() {
        let bytes = our_own();
        assert!(Vdso::parse(&bytes[..bytes.len() / 3]).is_err());
        assert!(Vdso::parse(b"not an ELF image").is_err());
    }
}
