//! The vDSO. If the kernel has the one the task was dumped with, it is moved
//! to where the task had it. If it has another, the old one's image stands at
//! the old place with each of its functions forwarded to the new one's, which
//! stays elsewhere: pointers that the task has kept lead to code that works.

use icecore_images::bytes::ByteString;
use icecore_images::mm::{Backing, MmState, VdsoState, Vma};

use super::layout::Layout;
use crate::kernel::maps::{self, Area};
use crate::kernel::process_memory::ProcessMemory;
use crate::kernel::vdso::{self, Vdso};
use crate::tracer::Script;

const PAGE: u64 = 4096;

/// What becomes of the vDSO areas that a new process has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// The task had none.
    Remove(Vec<Move>),
    /// They are moved to where the task had them.
    Move(Vec<Move>),
    /// They stay out of the way; the old image leads to them.
    Forward(Forward),
}

/// A move of an area, by way of a parking place: the old and the new place may
/// overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    from: u64,
    len: u64,
    parking: u64,
    to: u64,
}

/// Forwarding from an old vDSO to a new one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Forward {
    moves: Vec<Move>,
    /// Where the old image stands.
    start: u64,
    len: u64,
    /// The old image with jumps in place of its functions.
    image: Vec<u8>,
}

/// Why an old vDSO cannot be forwarded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unforwardable {
    /// The kernel's lacks a function.
    #[error("this kernel's vDSO has no function {0}, which the dumped one had")]
    Missing(ByteString),
    /// No jump fits between two functions.
    #[error("function {0} of the dumped vDSO has no room for a jump")]
    NoRoom(ByteString),
    /// Our own cannot be looked at.
    #[error("this kernel's vDSO cannot be read")]
    Unreadable,
}

/// This process's vDSO, of which every new process has a copy.
#[derive(Debug)]
pub(super) struct Own {
    areas: Vec<Area>,
    vdso: Option<Vdso>,
}

impl Own {
    /// Looks at it.
    pub(super) fn read() -> std::io::Result<Self> {
        let pid = std::process::id();
        let all = maps::read_maps(pid)?;
        let areas: Vec<Area> = vdso::areas(&all).into_iter().cloned().collect();
        let Some(area) = areas.iter().find(|a| a.name == b"[vdso]") else {
            return Ok(Self { areas, vdso: None });
        };
        let mut bytes = vec![0; area.len() as usize];
        ProcessMemory::open(pid)?.force_read(area.start, &mut bytes)?;
        let vdso = Vdso::parse(&bytes).map_err(std::io::Error::other)?;
        Ok(Self {
            areas,
            vdso: Some(vdso),
        })
    }

    /// The same in a process with these areas, which may have it elsewhere.
    pub(super) fn placed(self, now: &[Area]) -> Self {
        let areas = vdso::areas(now).into_iter().cloned().collect();
        Self { areas, ..self }
    }

    fn start(&self) -> u64 {
        self.areas.first().map_or(0, |a| a.start)
    }
}

impl Plan {
    /// Decides for `mm`; with `forward` even the same vDSO counts as another.
    pub(super) fn new(
        own: &Own,
        mm: &MmState,
        parking: u64,
        forward: bool,
    ) -> Result<Self, Unforwardable> {
        let then: Vec<&Vma> = mm
            .vmas
            .iter()
            .filter(|v| name(&v.backing).is_some())
            .collect();
        let park = |area: &Area| parking + (area.start - own.start());
        let moved = |area: &Area, to| Move {
            from: area.start,
            len: area.len(),
            parking: park(area),
            to,
        };
        let aside = || own.areas.iter().map(|a| moved(a, park(a))).collect();
        let Some(state) = &mm.vdso else {
            return Ok(Plan::Remove(aside()));
        };
        if !forward && is_same(own, &then, state) {
            let pairs = own.areas.iter().zip(then);
            return Ok(Plan::Move(pairs.map(|(a, v)| moved(a, v.start)).collect()));
        }
        forward_all(own, mm, state, parking).map(|(start, len, image)| {
            Plan::Forward(Forward {
                moves: aside(),
                start,
                len,
                image,
            })
        })
    }
}

fn name(backing: &Backing) -> Option<&'static [u8]> {
    match backing {
        Backing::Vvar => Some(b"[vvar]"),
        Backing::VvarVclock => Some(b"[vvar_vclock]"),
        Backing::Vdso => Some(b"[vdso]"),
        _ => None,
    }
}

/// The same code, and the same data areas around it at the same distances.
fn is_same(own: &Own, then: &[&Vma], state: &VdsoState) -> bool {
    let same_code = own
        .vdso
        .as_ref()
        .is_some_and(|vdso| vdso.checksum == state.checksum);
    let first = then.first().map_or(0, |v| v.start);
    let same_area = |(area, vma): (&Area, &&Vma)| {
        name(&vma.backing) == Some(area.name.as_slice())
            && vma.end - vma.start == area.len()
            && vma.start - first == area.start - own.start()
    };
    same_code && own.areas.len() == then.len() && own.areas.iter().zip(then).all(same_area)
}

/// The old image at its place, all functions leading to the new ones.
fn forward_all(
    own: &Own,
    mm: &MmState,
    state: &VdsoState,
    parking: u64,
) -> Result<(u64, u64, Vec<u8>), Unforwardable> {
    let (Some(vdso), Some(area), Some(old)) = (
        &own.vdso,
        own.areas.iter().find(|a| a.name == b"[vdso]"),
        mm.vmas.iter().find(|v| v.backing == Backing::Vdso),
    ) else {
        return Err(Unforwardable::Unreadable);
    };
    let base = parking + (area.start - own.start());
    let mut image = state.image.0.clone();
    image.resize((old.end - old.start) as usize, 0);
    for (i, (name, offset)) in state.symbols.iter().enumerate() {
        let target = vdso.symbols.iter().find(|(n, _)| *n == name.0);
        let (_, target) = target.ok_or_else(|| Unforwardable::Missing(name.clone()))?;
        let next = state.symbols.iter().map(|(_, o)| *o).filter(|o| o > offset);
        let room = next.min().unwrap_or(image.len() as u64) - offset.min(&(image.len() as u64));
        let at = *offset as usize;
        let place = image.get_mut(at..at.saturating_add(JUMP_LEN));
        let Some(place) = place.filter(|_| room >= JUMP_LEN as u64) else {
            return Err(Unforwardable::NoRoom(state.symbols[i].0.clone()));
        };
        place.copy_from_slice(&jump(base + target));
    }
    Ok((old.start, old.end - old.start, image))
}

const JUMP_LEN: usize = 14;

/// `jmp [rip]` and the address: touches no register.
fn jump(to: u64) -> [u8; JUMP_LEN] {
    let mut code = [0; JUMP_LEN];
    code[..6].copy_from_slice(&[0xff, 0x25, 0, 0, 0, 0]);
    code[6..].copy_from_slice(&to.to_le_bytes());
    code
}

/// Moves, removes or forwards.
pub(super) fn map(layout: &Layout, script: &mut Script) {
    match &layout.vdso {
        Plan::Remove(moves) => {
            for m in moves {
                let args = [m.from, m.len];
                script.call("unmap the vDSO", libc::SYS_munmap as u32, args);
            }
        }
        Plan::Move(moves) => move_all(moves, script),
        Plan::Forward(forward) => {
            move_all(&forward.moves, script);
            let prot = (libc::PROT_READ | libc::PROT_WRITE) as u64;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            let args = [forward.start, forward.len, prot, flags as u64, u64::MAX, 0];
            script.call("map the old vDSO", libc::SYS_mmap as u32, args);
        }
    }
}

fn move_all(moves: &[Move], script: &mut Script) {
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    let mut mremap = |from, len, to| {
        if from != to {
            let args = [from, len, len, flags, to];
            script.call("move the vDSO", libc::SYS_mremap as u32, args);
        }
    };
    if moves.iter().all(|m| m.from == m.to) {
        return;
    }
    for m in moves {
        mremap(m.from, m.len, m.parking);
    }
    for m in moves {
        mremap(m.parking, m.len, m.to);
    }
}

/// Writes the forwarding image, if there is one.
pub(super) fn fill(layout: &Layout, memory: &ProcessMemory) -> std::io::Result<()> {
    match &layout.vdso {
        Plan::Forward(forward) => memory.force_write(forward.start, &forward.image),
        Plan::Remove(_) | Plan::Move(_) => Ok(()),
    }
}

/// Makes the forwarding image executable, if there is one.
pub(super) fn protect(layout: &Layout, script: &mut Script) {
    if let Plan::Forward(forward) = &layout.vdso {
        let prot = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        let args = [forward.start, forward.len.next_multiple_of(PAGE), prot];
        script.call("protect the old vDSO", libc::SYS_mprotect as u32, args);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use icecore_images::ids::MmId;
    use icecore_images::mm::{MmFields, VmaFlags};
    use icecore_images::prctl::MmControls;
    use icecore_images::regular::FileRef;

    fn vma(start: u64, len: u64, backing: Backing) -> Vma {
        Vma {
            start,
            end: start + len,
            prot: 5,
            shared: false,
            backing,
            flags: VmaFlags::default(),
            pkey: 0,
            numa: None,
            anon_name: None,
            guards: Vec::new(),
        }
    }

    /// An address space as it would be dumped from us, `by` higher.
    fn like_ours(own: &Own, by: u64) -> MmState {
        let backing = |name: &[u8]| match name {
            b"[vvar]" => Backing::Vvar,
            b"[vdso]" => Backing::Vdso,
            _ => Backing::VvarVclock,
        };
        let vdso = own.vdso.as_ref().unwrap();
        let symbols = vdso.symbols.iter();
        let file = FileRef {
            path: b"/x".to_vec().into(),
            mode: 0,
            size: 0,
            mtime_ns: 0,
            device: 0,
            inode: 0,
            build_id: None,
            ghost: None,
        };
        MmState {
            id: MmId(0),
            fields: MmFields::default(),
            exe: file,
            controls: MmControls::default(),
            vmas: own
                .areas
                .iter()
                .map(|a| vma(a.start + by, a.len(), backing(&a.name)))
                .collect(),
            vdso: Some(VdsoState {
                checksum: vdso.checksum,
                image: vec![0xcc; vdso.elf_len].into(),
                symbols: symbols.map(|(n, o)| (n.clone().into(), *o)).collect(),
            }),
            pages: Vec::new(),
        }
    }

    #[test]
    fn the_same_is_moved_as_a_whole() {
        let own = Own::read().unwrap();
        let mm = like_ours(&own, 0x10_0000);
        let Plan::Move(moves) = Plan::new(&own, &mm, 0x7000_0000, false).unwrap() else {
            panic!("the same vDSO is not recognised");
        };
        assert_eq!(moves.len(), own.areas.len());
        assert!(moves.iter().all(|m| m.to == m.from + 0x10_0000));
        assert_eq!(moves[0].parking, 0x7000_0000);
    }

    #[test]
    fn another_is_forwarded_function_by_function() {
        let own = Own::read().unwrap();
        let mut mm = like_ours(&own, 0);
        mm.vdso.as_mut().unwrap().checksum ^= 1;
        let Plan::Forward(forward) = Plan::new(&own, &mm, 0x7000_0000, false).unwrap() else {
            panic!("another vDSO is not forwarded");
        };
        let vdso_at = own
            .areas
            .iter()
            .find(|a| a.name == b"[vdso]")
            .unwrap()
            .start;
        assert_eq!(forward.start, vdso_at);
        let clock = &mm.vdso.as_ref().unwrap().symbols[0];
        let code = &forward.image[clock.1 as usize..][..JUMP_LEN];
        let target = 0x7000_0000 + (vdso_at - own.start()) + clock.1;
        assert_eq!(code, jump(target));
    }

    #[test]
    fn a_function_that_is_gone_is_named() {
        let own = Own::read().unwrap();
        let mut mm = like_ours(&own, 0);
        let state = mm.vdso.as_mut().unwrap();
        state.symbols.push((b"__vdso_gone".to_vec().into(), 8));
        let problem = Plan::new(&own, &mm, 0x7000_0000, true).unwrap_err();
        assert!(problem.to_string().contains("__vdso_gone"), "{problem}");
    }
}
