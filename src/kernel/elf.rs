//! The program headers of an ELF file, from wherever its bytes can be read.

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::{Elf, ProgramHeader};

/// Program headers of a 64-bit little-endian ELF file; `read` fills a buffer
/// from an offset in it. `None` for what cannot be read or is no such file.
pub(crate) fn program_headers(
    read: impl Fn(u64, &mut [u8]) -> Option<()>,
) -> Option<Vec<ProgramHeader>> {
    let mut head = [0; 64];
    read(0, &mut head)?;
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let header = Elf::parse_header(&head).ok()?;
    let (count, size) = (usize::from(header.e_phnum), usize::from(header.e_phentsize));
    let mut table = vec![0; count * size];
    read(header.e_phoff, &mut table)?;
    let ctx = Ctx::new(Container::Big, Endian::Little);
    ProgramHeader::parse(&table, 0, count, ctx).ok()
}
