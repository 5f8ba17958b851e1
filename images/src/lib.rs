//! The image format of icecore: what a sleeping process looks like on disk.
//!
//! One module a resource, with the same stem as the modules of `icecore` that
//! dump and restore it. This crate knows no ptrace and builds on any OS.
#![forbid(unsafe_code)]

pub mod bytes;
pub mod cgroup;
pub mod check;
pub mod checkpoint;
mod codec;
pub mod connection;
pub mod creds;
pub mod device;
mod directory;
pub mod envelope;
pub mod epoll;
pub mod error;
pub mod eventfd;
pub mod files;
pub mod ids;
pub mod inet;
pub mod inotify;
pub mod limits;
pub mod lock;
pub mod machine;
pub mod manifest;
pub mod mm;
pub mod objects;
mod os;
mod page_reader;
pub mod pages;
pub mod pidfd;
pub mod pipe;
pub mod prctl;
pub mod proc_file;
pub mod reader;
pub mod regular;
pub mod sched;
pub mod seccomp;
pub mod shmem;
pub mod signalfd;
pub mod signals;
pub mod socket;
pub mod store;
pub mod task;
pub mod tcp;
pub mod thread;
pub mod timerfd;
pub mod timers;
pub mod unix;

pub use bytes::ByteString;
pub use check::CheckError;
pub use checkpoint::Checkpoint;
pub use codec::CodecError;
pub use error::{ReadError, WriteError};
pub use page_reader::PageReader;
pub use reader::Image;
pub use store::{Committed, ImageWriter, Step, WriteOptions};
