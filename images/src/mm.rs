//! An address space: its areas (VMAs), its fields, and where its pages are.

use serde::{Deserialize, Serialize};

use crate::bytes::ByteString;
use crate::ids::{MmId, ShmemId};
use crate::pages::PageExtent;
use crate::prctl::{MmControls, NumaPolicy};
use crate::regular::FileRef;

/// An address space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MmState {
    /// Its name in this image.
    pub id: MmId,
    /// Fields set with PR_SET_MM_MAP.
    pub fields: MmFields,
    /// `/proc/PID/exe`.
    pub exe: FileRef,
    /// prctl state.
    pub controls: MmControls,
    /// Areas by address, without overlap.
    pub vmas: Vec<Vma>,
    /// Entry points of the dumped vDSO, so that another one can stand in.
    pub vdso: Option<VdsoState>,
    /// Stored pages by address, without overlap.
    ///
    /// Pages that address spaces still share since a fork (copy-on-write) are
    /// stored once: those that name the same bytes of the same page file at the
    /// same address were one physical page, and whoever restores may share them
    /// again.
    pub pages: Vec<PageExtent>,
}

/// `struct prctl_mm_map` without its pointers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct MmFields {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    /// `/proc/PID/auxv`, whole.
    #[serde(with = "crate::bytes::hex")]
    pub auxv: ByteString,
}

/// One area.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vma {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// PROT_READ | PROT_WRITE | PROT_EXEC.
    pub prot: u32,
    /// MAP_SHARED rather than MAP_PRIVATE.
    pub shared: bool,
    /// What lies behind it.
    pub backing: Backing,
    /// Attributes from smaps' VmFlags.
    pub flags: VmaFlags,
    /// Protection key.
    pub pkey: u32,
    /// NUMA policy, where it is not the default.
    pub numa: Option<NumaPolicy>,
    /// PR_SET_VMA_ANON_NAME.
    pub anon_name: Option<ByteString>,
    /// Guard regions (MADV_GUARD_INSTALL), as start and end addresses.
    pub guards: Vec<(u64, u64)>,
}

/// What lies behind an area.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backing {
    /// Private anonymous memory.
    Anonymous,
    /// Private anonymous huge pages (MAP_HUGETLB), with their page size.
    AnonymousHuge {
        /// Bytes.
        page_size: u64,
    },
    /// Shared memory: anonymous, memfd, or hugetlb.
    Shmem {
        /// The object.
        id: ShmemId,
        /// Offset in bytes.
        offset: u64,
        /// The open behind the area allows writing.
        writable: bool,
        /// Although it does, seals keep the area from becoming writable.
        sealed: bool,
    },
    /// A file with a name.
    File {
        /// The file.
        file: FileRef,
        /// Offset in bytes.
        offset: u64,
        /// The mapping needs an open that allows writing.
        writable: bool,
    },
    /// `[vdso]`.
    Vdso,
    /// `[vvar]`.
    Vvar,
    /// `[vvar_vclock]`.
    VvarVclock,
    /// `[vsyscall]`.
    Vsyscall,
}

/// The VmFlags of smaps that can be set from userspace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmaFlags {
    /// `gd`: MAP_GROWSDOWN.
    pub grows_down: bool,
    /// `nr`: MAP_NORESERVE.
    pub no_reserve: bool,
    /// `lo`: mlock.
    pub locked: bool,
    /// `lf` (with `lo`): MLOCK_ONFAULT.
    pub lock_on_fault: bool,
    /// `hg`: MADV_HUGEPAGE.
    pub huge_page: bool,
    /// `nh`: MADV_NOHUGEPAGE.
    pub no_huge_page: bool,
    /// `mg`: MADV_MERGEABLE.
    pub mergeable: bool,
    /// `dc`: MADV_DONTFORK.
    pub dont_fork: bool,
    /// `wf`: MADV_WIPEONFORK.
    pub wipe_on_fork: bool,
    /// `dd`: MADV_DONTDUMP.
    pub dont_dump: bool,
    /// `sr`: MADV_SEQUENTIAL.
    pub sequential: bool,
    /// `rr`: MADV_RANDOM.
    pub random: bool,
    /// `sl`: mseal(2).
    pub sealed: bool,
    /// `dp`: MAP_DROPPABLE.
    pub droppable: bool,
    /// `sf`: MAP_SYNC.
    pub sync: bool,
    /// `ac`: accountable.
    pub account: bool,
}

/// The vDSO a task was dumped with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VdsoState {
    /// Checksum of the vDSO's ELF image (its unused tail left out).
    pub checksum: u32,
    /// The ELF image itself, for a kernel with another vDSO: the task may have
    /// kept pointers into it.
    pub image: ByteString,
    /// Its functions: name and offset from the start of the area.
    pub symbols: Vec<(ByteString, u64)>,
}
