//! Linux as we use it: /proc, system calls without a wrapper, feature probes.

pub mod build_id;
pub mod clone3;
pub(crate) mod cpu;
pub mod fcntl;
pub mod fdinfo;
pub mod features;
pub mod file_handle;
pub mod inherited;
pub mod kcmp;
pub(crate) mod limits;
pub mod maps;
pub mod memcg;
pub mod pagemap;
pub(crate) mod prctl;
pub(crate) mod proc_text;
pub(crate) mod proc_timers;
pub mod process_memory;
pub(crate) mod sched;
pub mod shared_memory;
pub(crate) mod siginfo;
pub(crate) mod stat;
pub(crate) mod status;
pub(crate) mod sysv_sem;
pub mod vdso;
pub mod xattr;
