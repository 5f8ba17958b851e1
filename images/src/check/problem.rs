//! What a check found, and where.

use std::fmt;

use crate::files::kind_of_mode;

/// Something in an image makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {problem}")]
pub struct CheckError {
    /// Where.
    pub object: Object,
    /// What.
    pub problem: Problem,
}

/// The part of an image a [`Problem`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // each names itself
pub enum Object {
    Image,
    Machine,
    Clocks,
    PageFile(usize),
    Ghost(u32),
    Shmem(u32),
    Pipe(u32),
    SeccompFilter(u32),
    SigHand(u32),
    Description(u32),
    FdTable(u32),
    Fs(u32),
    Mm(u32),
    Area { mm: u32, start: u64 },
    CgroupHierarchy(usize),
    CgroupSet(usize),
    Task(u32),
    Thread(u32),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::Image => write!(f, "image"),
            Object::Machine => write!(f, "machine"),
            Object::Clocks => write!(f, "clocks"),
            Object::PageFile(n) => write!(f, "page file {n}"),
            Object::Ghost(id) => write!(f, "deleted file {id}"),
            Object::Shmem(id) => write!(f, "shared memory object {id}"),
            Object::Pipe(id) => write!(f, "pipe {id}"),
            Object::SeccompFilter(id) => write!(f, "seccomp filter {id}"),
            Object::SigHand(id) => write!(f, "table of signal actions {id}"),
            Object::Description(id) => write!(f, "open file description {id}"),
            Object::FdTable(id) => write!(f, "descriptor table {id}"),
            Object::Fs(id) => write!(f, "fs struct {id}"),
            Object::Mm(id) => write!(f, "address space {id}"),
            Object::Area { mm, start } => write!(f, "address space {mm}, area at {start:#x}"),
            Object::CgroupHierarchy(n) => write!(f, "cgroup hierarchy {n}"),
            Object::CgroupSet(n) => write!(f, "set of cgroups {n}"),
            Object::Task(pid) => write!(f, "task {pid}"),
            Object::Thread(tid) => write!(f, "thread {tid}"),
        }
    }
}

/// What makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Ids are places in their tables.
    #[error("id {id} at place {place} of its table")]
    Id {
        /// The id.
        id: u32,
        /// Where it is.
        place: usize,
    },
    /// A reference to nothing.
    #[error("refers to {what} {id}, which is not in the image")]
    Dangling {
        /// The table.
        what: &'static str,
        /// The id.
        id: u32,
    },
    /// Too many or too few of something.
    #[error("{count} {what}, where {min} to {max} are possible")]
    Count {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// At least.
        min: usize,
        /// At most.
        max: usize,
    },
    /// A number the kernel does not know.
    #[error("{what} {value} is not within {min} to {max}")]
    Range {
        /// The field.
        what: &'static str,
        /// Its value.
        value: i128,
        /// At least.
        min: i128,
        /// At most.
        max: i128,
    },
    /// A value that is none of the known ones.
    #[error("{what} has the unknown value {value:#x}")]
    Unknown {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// Off its grid.
    #[error("{what} {value:#x} is not a multiple of {grid}")]
    Aligned {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
        /// Its grid.
        grid: u64,
    },
    /// Out of order, overlapping, or there twice.
    #[error("{what} {value:#x} is out of order, overlaps another or occurs twice")]
    Order {
        /// Of what.
        what: &'static str,
        /// Which.
        value: u64,
    },
    /// Reaches beyond what holds it.
    #[error("{what} {start:#x}-{end:#x} reaches beyond {within}")]
    Outside {
        /// What.
        what: &'static str,
        /// First.
        start: u64,
        /// First after.
        end: u64,
        /// What should hold it.
        within: &'static str,
    },
    /// No path.
    #[error("{what} is not an absolute path of at most 4095 bytes")]
    Path {
        /// The field.
        what: &'static str,
    },
    /// No text the kernel takes.
    #[error("{what} is longer than {max} bytes or has a zero byte in it")]
    Text {
        /// The field.
        what: &'static str,
        /// Longest.
        max: usize,
    },
    /// Another type of file.
    #[error("{what} is a {}", kind_of_mode(*.mode))]
    FileType {
        /// What it stands for.
        what: &'static str,
        /// `st_mode`.
        mode: u32,
    },
    /// Pages that are said to be in a parent image.
    #[error("pages are said to be in a parent image, and there is none")]
    NoParent,
    /// Parts that contradict each other.
    #[error("{0}")]
    Contradiction(&'static str),
}

impl Problem {
    pub(super) fn at(self, object: Object) -> CheckError {
        CheckError {
            object,
            problem: self,
        }
    }
}

/// The result of looking at one value.
pub(super) type Found = Result<(), Problem>;

/// Says where a problem was found.
pub(super) trait At {
    fn at(self, object: Object) -> Result<(), CheckError>;
}

impl At for Found {
    fn at(self, object: Object) -> Result<(), CheckError> {
        self.map_err(|problem| problem.at(object))
    }
}
