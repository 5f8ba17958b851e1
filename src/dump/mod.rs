//! Dump: `freeze → collect → inspect from inside → copy pages → commit →
//! release`.

mod copy;
mod copy_read;
mod descriptor;
pub(crate) mod descriptors;
mod device;
mod directory;
mod epoll;
mod eventfd;
pub(crate) mod file_ref;
mod fs_state;
pub(crate) mod ghost;
mod inotify;
mod memfd;
pub(crate) mod memory;
mod mm;
mod numa;
mod outside;
mod pages;
mod path_only;
mod pidfd;
mod pipe;
mod pipe_queue;
mod proc_file;
mod regular;
pub(crate) mod shmem;
mod signalfd;
mod socket;
pub(crate) mod state;
mod timerfd;
mod vma;

mod creds;
mod kin;
mod limits;
mod namespaces;
mod prctl;
mod refused;
mod sched;
mod seccomp;
mod signals;
mod timers;
mod xstate;

use std::fs::File;
use std::time::Instant;

use icecore_images::Checkpoint;
use icecore_images::files::{FdTable, FsState, OpenFile};
use icecore_images::mm::MmState;
use icecore_images::pages::PageFile;
use icecore_images::pipe::PipeState;
use icecore_images::regular::GhostFile;
use icecore_images::seccomp::SeccompFilter;
use icecore_images::shmem::ShmemState;
use icecore_images::signals::SigHandState;
use icecore_images::task::TaskState;
use icecore_images::timers::ClockState;

use crate::blocker::{Blocker, Place};
use crate::error::DumpError;
use crate::options::DumpOptions;
use crate::stats::{DumpReport, DumpStats};

/// Puts the task to sleep.
pub(crate) fn run(options: &DumpOptions) -> Result<DumpReport, DumpError> {
    let _ = options;
    unimplemented!("stages")
}

/// What the stages of a dump share: what was asked for and what has been found
/// so far. Ids in the tables are their indices.
#[derive(Debug)]
pub(crate) struct DumpContext<'a> {
    pub(crate) options: &'a DumpOptions,
    /// Everything that cannot be carried over; reported together.
    pub(crate) blockers: Vec<Blocker>,
    /// Deviations that do not stop a dump but are said aloud.
    pub(crate) notes: Vec<String>,
    /// Clocks at the moment the timers were read.
    pub(crate) clocks: ClockState,
    pub(crate) tables: Tables,
    pub(crate) stats: DumpStats,
    /// Since when the target has stood still.
    pub(crate) frozen_since: Option<Instant>,
}

/// The objects that tasks share, as they are discovered.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) mms: Vec<MmState>,
    pub(crate) fd_tables: Vec<FdTable>,
    pub(crate) fs: Vec<FsState>,
    pub(crate) sig_hands: Vec<SigHandState>,
    pub(crate) files: Vec<OpenFile>,
    pub(crate) pipes: Vec<PipeState>,
    pub(crate) ghosts: Vec<GhostFile>,
    pub(crate) shmems: Vec<ShmemState>,
    pub(crate) seccomp_filters: Vec<SeccompFilter>,
    pub(crate) page_files: Vec<PageFile>,
    pub(crate) tasks: Vec<TaskState>,
    /// How files were found, for those that come across them again.
    pub(crate) file_refs: file_ref::FileRefs,
    /// The same for shared memory objects.
    pub(crate) shmem_refs: shmem::Shmems,
    /// The thread through which each address space is read, by its id.
    pub(crate) mm_tids: Vec<u32>,
}

impl<'a> DumpContext<'a> {
    /// Nothing found yet.
    pub(crate) fn new(options: &'a DumpOptions) -> Self {
        Self {
            options,
            blockers: Vec::new(),
            notes: Vec::new(),
            clocks: ClockState::default(),
            tables: Tables::default(),
            stats: DumpStats::default(),
            frozen_since: None,
        }
    }
}

impl DumpContext<'_> {
    /// Notes something that cannot be carried over.
    pub(crate) fn block(&mut self, place: Place, problem: String, help: Option<&str>) {
        self.blockers.push(Blocker {
            place,
            problem,
            help: help.map(str::to_owned),
        });
    }
}

#[allow(unused)]
fn assemble(_: Checkpoint, _: File) {}
