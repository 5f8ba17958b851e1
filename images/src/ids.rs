//! Names by which the parts of an image refer to each other.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta] $name:ident),+ $(,)?) => {$(
        #[$doc]
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        pub struct $name(pub u32);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

id! {
    /// An address space.
    MmId,
    /// A descriptor table.
    FdTableId,
    /// An fs struct: working directory, root, umask.
    FsId,
    /// A table of signal actions.
    SigHandId,
    /// An open file description.
    DescriptionId,
    /// A pipe or FIFO's buffer.
    PipeId,
    /// A file that has no name any more and is carried in the image.
    GhostId,
    /// A shared memory object: shared anonymous area or memfd.
    ShmemId,
    /// A seccomp filter program.
    SeccompFilterId,
    /// A set of cgroups that threads are in, one in each hierarchy.
    CgroupSetId,
}
