//! The GNU build id of an ELF file, read without reading the file.

use std::fs::File;
use std::os::unix::fs::FileExt;

use goblin::elf::program_header::PT_NOTE;

use super::elf;

const NT_GNU_BUILD_ID: u32 = 3;
/// More notes than this nobody writes; a build id has 20 bytes.
const NOTES_CAP: u64 = 1 << 16;

/// The build id of `file`, where it is a 64-bit little-endian ELF file that
/// has one. A file that cannot be read, or is not what it claims, has none.
pub fn read(file: &File) -> Option<Vec<u8>> {
    elf::program_headers(|at, buffer| file.read_exact_at(buffer, at).ok())?
        .iter()
        .filter(|segment| segment.p_type == PT_NOTE && segment.p_filesz <= NOTES_CAP)
        .find_map(|segment| {
            let mut notes = vec![0; segment.p_filesz as usize];
            file.read_exact_at(&mut notes, segment.p_offset).ok()?;
            find_note(&notes, segment.p_align)
        })
}

/// The descriptor of the `GNU` note of type build id among `notes`.
fn find_note(mut notes: &[u8], align: u64) -> Option<Vec<u8>> {
    let align = if align == 8 { 8 } else { 4 };
    while let Some((head, _)) = notes.split_first_chunk::<12>() {
        let word = |at: usize| {
            let bytes = [head[at], head[at + 1], head[at + 2], head[at + 3]];
            u32::from_le_bytes(bytes)
        };
        let (name_len, desc_len) = (word(0) as usize, word(4) as usize);
        let desc_at = 12 + name_len.next_multiple_of(align);
        let desc = notes.get(desc_at..desc_at.checked_add(desc_len)?)?;
        if word(8) == NT_GNU_BUILD_ID && notes.get(12..12 + name_len)? == b"GNU\0" {
            return Some(desc.to_vec());
        }
        notes = notes.get((desc_at + desc_len).next_multiple_of(align)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libc_has_one_and_a_text_file_has_none() {
        let libc = File::open("/lib/x86_64-linux-gnu/libc.so.6").unwrap();
        assert_eq!(read(&libc).unwrap().len(), 20);
        assert_eq!(read(&File::open("/etc/passwd").unwrap()), None);
    }

    #[test]
    fn a_note_is_found_behind_another_one() {
        let mut notes = Vec::new();
        for (kind, desc) in [(1_u32, &b"abcdefgh"[..]), (3, &b"id!"[..])] {
            notes.extend(4_u32.to_le_bytes());
            notes.extend((desc.len() as u32).to_le_bytes());
            notes.extend(kind.to_le_bytes());
            notes.extend(b"GNU\0");
            notes.extend(desc);
        }
        assert_eq!(find_note(&notes, 4).unwrap(), b"id!");
        assert_eq!(find_note(&notes[..30], 4), None);
    }
}
