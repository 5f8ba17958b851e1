//! `/proc/PID/maps` and `/proc/PID/smaps`, parsed as bytes.
//!
//! File names in them are escaped (`\012` for a newline) and may hold anything,
//! so they serve for messages and for telling special areas apart only; a
//! file's true path is the link in `/proc/PID/map_files`.

use std::io;

/// One area, as the kernel prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// PROT_READ | PROT_WRITE | PROT_EXEC.
    pub prot: u32,
    /// `s` rather than `p`.
    pub shared: bool,
    /// Offset into the file, bytes.
    pub offset: u64,
    /// Device of the file, as `st_dev` is encoded for userspace.
    pub device: u64,
    /// Inode of the file; 0: none.
    pub inode: u64,
    /// Path or `[name]`, escaped as the kernel prints it.
    pub name: Vec<u8>,
    /// What only smaps knows.
    pub details: Option<Details>,
}

/// What smaps knows about an area.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Bytes resident.
    pub rss: u64,
    /// Bytes of a page as the kernel allocates it here.
    pub kernel_page_size: u64,
    /// Protection key.
    pub pkey: u32,
    /// Two-letter flags, in the kernel's order.
    pub vm_flags: Vec<[u8; 2]>,
}

impl Area {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it spans no address; the kernel never prints such an area.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether smaps shows this flag.
    pub fn has(&self, flag: &[u8; 2]) -> bool {
        self.details
            .as_ref()
            .is_some_and(|d| d.vm_flags.contains(flag))
    }

    /// The name of the area's link in `/proc/PID/map_files`.
    pub fn map_files_name(&self) -> String {
        format!("{:x}-{:x}", self.start, self.end)
    }
}

/// A line that is not what `maps` or `smaps` are documented to hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}: {text:?}")]
pub struct MapsError {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: &'static str,
    /// The line itself, escaped.
    pub text: String,
}

impl From<MapsError> for io::Error {
    fn from(e: MapsError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, e)
    }
}

/// The areas of a task, without details: `/proc/PID/maps`.
pub fn read_maps(pid: u32) -> io::Result<Vec<Area>> {
    Ok(parse(&std::fs::read(format!("/proc/{pid}/maps"))?)?)
}

/// The areas of a task with details: `/proc/PID/smaps`. The kernel walks the
/// page tables for it: about 20 ms for each GiB of resident 4 KiB pages.
pub fn read_smaps(pid: u32) -> io::Result<Vec<Area>> {
    Ok(parse(&std::fs::read(format!("/proc/{pid}/smaps"))?)?)
}

/// Parses the text of `maps` or `smaps`.
pub fn parse(text: &[u8]) -> Result<Vec<Area>, MapsError> {
    let mut areas: Vec<Area> = Vec::new();
    for (i, line) in text.split(|&b| b == b'\n').enumerate() {
        let parsed = match (parse_line(line), areas.last_mut()) {
            (Ok(Line::Area(area)), _) => {
                areas.push(area);
                Ok(())
            }
            (Ok(Line::Detail(key, value)), Some(area)) => {
                parse_detail(area.details.get_or_insert_default(), key, value)
            }
            (Ok(Line::Detail(..)), None) => Err("a detail before any area"),
            (Ok(Line::Empty), _) => Ok(()),
            (Err(problem), _) => Err(problem),
        };
        parsed.map_err(|problem| MapsError {
            line: i + 1,
            problem,
            text: String::from_utf8_lossy(line).into_owned(),
        })?;
    }
    Ok(areas)
}

enum Line<'a> {
    Area(Area),
    Detail(&'a [u8], &'a [u8]),
    Empty,
}

fn parse_line(line: &[u8]) -> Result<Line<'_>, &'static str> {
    let Some(&first) = line.first() else {
        return Ok(Line::Empty);
    };
    // Details start with an upper-case key and a colon, areas with an address.
    if first.is_ascii_uppercase() {
        let colon = position(line, b':').ok_or("a detail without a colon")?;
        return Ok(Line::Detail(&line[..colon], &line[colon + 1..]));
    }
    parse_area(line).map(Line::Area)
}

/// `start-end perm offset major:minor inode name`; the name is padded with
/// spaces in front and ends with the line.
fn parse_area(line: &[u8]) -> Result<Area, &'static str> {
    let mut rest = line;
    let mut field = || -> Result<&[u8], &'static str> {
        let len = position(rest, b' ').unwrap_or(rest.len());
        let (field, tail) = rest.split_at(len);
        rest = tail.strip_prefix(b" ").unwrap_or(tail);
        (!field.is_empty())
            .then_some(field)
            .ok_or("a field is missing")
    };
    let (range, perm, offset, device, inode) = (field()?, field()?, field()?, field()?, field()?);
    let (start, end) = pair(range, b'-').ok_or("no address range")?;
    if start >= end {
        return Err("an empty address range");
    }
    let &[r, w, x, s] = perm else {
        return Err("unknown permissions");
    };
    let (major, minor) = pair(device, b':').ok_or("no device number")?;
    let name_at = rest.iter().position(|&b| b != b' ').unwrap_or(rest.len());
    Ok(Area {
        start,
        end,
        prot: protection(r, w, x)?,
        shared: s == b's',
        offset: hex(offset).ok_or("no offset")?,
        device: rustix::fs::makedev(major as u32, minor as u32),
        inode: decimal(inode).ok_or("no inode number")?,
        name: rest[name_at..].to_vec(),
        details: None,
    })
}

fn protection(r: u8, w: u8, x: u8) -> Result<u32, &'static str> {
    let bit = |letter: u8, set: u8, bit: i32| match letter {
        b'-' => Ok(0),
        l if l == set => Ok(bit as u32),
        _ => Err("unknown permissions"),
    };
    Ok(bit(r, b'r', libc::PROT_READ)?
        | bit(w, b'w', libc::PROT_WRITE)?
        | bit(x, b'x', libc::PROT_EXEC)?)
}

/// Takes the details that matter and passes over those it does not know: new
/// kernels add statistics. Flags are different, see `Details::vm_flags`.
fn parse_detail(details: &mut Details, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
    let value = value.trim_ascii();
    match key {
        b"Rss" => details.rss = kilobytes(value)?,
        b"KernelPageSize" => details.kernel_page_size = kilobytes(value)?,
        b"ProtectionKey" => details.pkey = decimal(value).ok_or("no key")? as u32,
        b"VmFlags" => details.vm_flags = parse_flags(value)?,
        _ => {}
    }
    Ok(())
}

fn parse_flags(value: &[u8]) -> Result<Vec<[u8; 2]>, &'static str> {
    value
        .split(|&b| b == b' ')
        .filter(|flag| !flag.is_empty())
        .map(|flag| flag.try_into().map_err(|_| "a flag is not two letters"))
        .collect()
}

fn kilobytes(value: &[u8]) -> Result<u64, &'static str> {
    value
        .strip_suffix(b" kB")
        .and_then(decimal)
        .and_then(|kb| kb.checked_mul(1024))
        .ok_or("no number of kB")
}

fn position(bytes: &[u8], wanted: u8) -> Option<usize> {
    bytes.iter().position(|&b| b == wanted)
}

fn pair(field: &[u8], separator: u8) -> Option<(u64, u64)> {
    let at = position(field, separator)?;
    Some((hex(&field[..at])?, hex(&field[at + 1..])?))
}

fn hex(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn decimal(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &[u8] = b"\
7ffe59b7b000-7ffe59b9c000 rw-p 00000000 00:00 0                          [stack]
Size:                132 kB
KernelPageSize:        4 kB
Rss:                  16 kB
ProtectionKey:         3
SomethingNew:          7 parsecs
VmFlags: rd wr mr mw me gd ac 
7f76cbd29000-7f76cbd4f000 r--s 0001c000 fe:01 326279                     /tmp/a b \\012 (deleted)
";

    #[test]
    fn areas_and_details_are_told_apart() {
        let areas = parse(SMAPS).unwrap();
        assert_eq!(areas.len(), 2);
        let stack = &areas[0];
        assert_eq!(
            (stack.start, stack.end),
            (0x7ffe_59b7_b000, 0x7ffe_59b9_c000)
        );
        assert_eq!(stack.name, b"[stack]");
        assert!(stack.has(b"gd") && !stack.has(b"lo"));
        let details = stack.details.as_ref().unwrap();
        assert_eq!((details.rss, details.kernel_page_size), (16384, 4096));
        assert_eq!(details.pkey, 3);
    }

    #[test]
    fn names_keep_their_spaces() {
        let file = &parse(SMAPS).unwrap()[1];
        assert_eq!(file.name, b"/tmp/a b \\012 (deleted)");
        assert!(file.shared && file.details.is_none());
        assert_eq!((file.offset, file.inode), (0x1c000, 326_279));
        assert_eq!(file.device, rustix::fs::makedev(0xfe, 1));
    }

    #[test]
    fn nonsense_names_its_line() {
        for (text, problem) in [
            (&b"Rss: 4 kB\n"[..], "a detail before any area"),
            (b"1000-1000 rw-p 0 00:00 0\n", "an empty address range"),
            (b"1000-2000 rw-q- 0 00:00 0\n", "unknown permissions"),
            (b"1000-2000 rz-p 0 00:00 0\n", "unknown permissions"),
            (b"1000-2000 rw-p 0 00:00\n", "a field is missing"),
            (b"zzzz\n", "a field is missing"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!((error.line, error.problem), (1, problem));
        }
    }

    #[test]
    fn our_own_maps_and_smaps_agree() {
        let pid = std::process::id();
        let smaps = read_smaps(pid).unwrap();
        assert!(smaps.iter().all(|a| a.details.is_some()));
        let vdso = smaps.iter().find(|a| a.name == b"[vdso]").unwrap();
        let again = read_maps(pid).unwrap();
        let same = again.iter().find(|a| a.name == b"[vdso]").unwrap();
        assert_eq!((vdso.start, vdso.end), (same.start, same.end));
    }
}
