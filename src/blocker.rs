//! What stands in the way of a dump (a blocker) or of a restore (an
//! obstacle). All of them are gathered before anything is refused.

use std::fmt;

use serde::Serialize;

/// Something a dump cannot carry over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blocker {
    /// Where it is.
    pub place: Place,
    /// What is wrong, naming the object: lower case, no full stop.
    pub problem: String,
    /// What would help: an option, a capability, a kernel version, a command.
    pub help: Option<String>,
}

/// Something that keeps an image from being restored here and now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Obstacle {
    /// Where it is.
    pub place: Place,
    /// What is wrong, naming the object: lower case, no full stop.
    pub problem: String,
    /// What would help.
    pub help: Option<String>,
}

/// The object a message is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The machine: a kernel feature, a CPU feature, a privilege.
    Machine,
    /// A task.
    Task {
        /// Its pid.
        pid: u32,
    },
    /// A thread.
    Thread {
        /// Its task.
        pid: u32,
        /// Its tid.
        tid: u32,
    },
    /// A descriptor.
    Fd {
        /// Its task.
        pid: u32,
        /// Its number.
        fd: u32,
    },
    /// An area of memory.
    Area {
        /// Its task.
        pid: u32,
        /// First address.
        start: u64,
        /// First address after it.
        end: u64,
    },
    /// A file by path.
    Path {
        /// The path, escaped.
        path: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Machine => write!(f, "this machine"),
            Place::Task { pid } => write!(f, "pid {pid}"),
            Place::Thread { pid, tid } => write!(f, "pid {pid} thread {tid}"),
            Place::Fd { pid, fd } => write!(f, "pid {pid} fd {fd}"),
            Place::Area { pid, start, end } => write!(f, "pid {pid} area {start:#x}-{end:#x}"),
            Place::Path { path } => write!(f, "{path}"),
        }
    }
}
