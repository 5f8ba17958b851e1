//! The whole of an image's metadata: a forest of tasks and the objects they
//! share.

use serde::{Deserialize, Serialize};

use crate::cgroup::CgroupsState;
use crate::files::{FdTable, FsState, OpenFile};
use crate::machine::MachineState;
use crate::mm::MmState;
use crate::pages::PageFile;
use crate::pipe::PipeState;
use crate::regular::GhostFile;
use crate::seccomp::SeccompFilter;
use crate::shmem::ShmemState;
use crate::signals::SigHandState;
use crate::task::TaskState;
use crate::timers::ClockState;

/// Everything in an image but the page contents. On disk each field is a
/// section of its own in the `objects` file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Where and when it was made.
    pub machine: MachineState,
    /// Clocks at the freeze.
    pub clocks: ClockState,
    /// Tasks, parents before children.
    pub tasks: Vec<TaskState>,
    /// Address spaces.
    pub mms: Vec<MmState>,
    /// Descriptor tables.
    pub fd_tables: Vec<FdTable>,
    /// fs structs.
    pub fs: Vec<FsState>,
    /// Tables of signal actions.
    pub sig_hands: Vec<SigHandState>,
    /// Open file descriptions.
    pub files: Vec<OpenFile>,
    /// Pipes and FIFOs.
    pub pipes: Vec<PipeState>,
    /// Files without a name.
    pub ghosts: Vec<GhostFile>,
    /// Shared memory objects.
    pub shmems: Vec<ShmemState>,
    /// Seccomp filters.
    pub seccomp_filters: Vec<SeccompFilter>,
    /// Page files.
    pub page_files: Vec<PageFile>,
    /// Control groups.
    pub cgroups: CgroupsState,
}
