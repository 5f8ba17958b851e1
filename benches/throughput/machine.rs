//! The machine it is measured on.

use std::path::Path;

use procfs::Current;
use serde::Serialize;

use crate::Outcome;
use crate::case::Case;

/// What a reader of the figures wants to know of it.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) memory_mib: u64,
    pub(crate) icecore: &'static str,
}

impl Machine {
    /// This one.
    pub(crate) fn this() -> Outcome<Self> {
        let cpuinfo = procfs::CpuInfo::current()?;
        let uname = rustix::system::uname();
        Ok(Self {
            kernel: uname.release().to_string_lossy().into_owned(),
            cpu: cpuinfo.model_name(0).unwrap_or("unknown").to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            memory_mib: procfs::Meminfo::current()?.mem_total >> 20,
            icecore: env!("CARGO_PKG_VERSION"),
        })
    }
}

/// Why a case cannot be measured in `dir`, if it cannot.
pub(crate) fn too_big(case: &Case, dir: &Path) -> Outcome<Option<String>> {
    /// The target, a copy of it, and an image or two.
    const IN_MEMORY: u64 = 4;
    const ON_DISK: u64 = 2;
    let memory = procfs::Meminfo::current()?.mem_available.unwrap_or(0);
    let fs = rustix::fs::statvfs(dir)?;
    let free = fs.f_bavail * fs.f_frsize;
    Ok(if case.size * IN_MEMORY > memory {
        Some(format!("{} MiB of memory are available", memory >> 20))
    } else if case.size * ON_DISK > free {
        Some(format!("{} MiB are free there", free >> 20))
    } else {
        None
    })
}
