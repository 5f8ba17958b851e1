//! Linux as we use it: /proc, system calls without a wrapper, feature probes.

pub mod maps;
pub mod pagemap;
pub mod vdso;
