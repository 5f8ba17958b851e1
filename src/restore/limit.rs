//! The limit of open files, raised while descriptors are rebuilt: a task may
//! hold more of them, and higher numbers, than its own limit allows by now.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::RestoreError;

/// Puts the limit back when it goes.
#[derive(Debug)]
pub(super) struct OpenFilesLimit {
    before: Rlimit,
}

impl OpenFilesLimit {
    /// Raises the soft limit to the hard one, and that as far as it goes where
    /// we may.
    pub(super) fn raise() -> Result<Self, RestoreError> {
        let before = getrlimit(Resource::Nofile);
        let most = Rlimit {
            current: nr_open(),
            maximum: nr_open(),
        };
        let allowed = Rlimit {
            current: before.maximum,
            maximum: before.maximum,
        };
        setrlimit(Resource::Nofile, most)
            .or_else(|_| setrlimit(Resource::Nofile, allowed))
            .map_err(|e| RestoreError::Rebuild {
                what: "the limit of open files".to_owned(),
                source: e.into(),
            })?;
        Ok(Self { before })
    }
}

impl Drop for OpenFilesLimit {
    fn drop(&mut self) {
        let _ = setrlimit(Resource::Nofile, self.before);
    }
}

/// Descriptor numbers below this can be had here.
pub(super) fn reachable(may_raise: bool) -> u64 {
    match may_raise {
        true => nr_open().unwrap_or(u64::MAX),
        false => getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
    }
}

fn nr_open() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/sys/fs/nr_open").ok()?;
    text.trim().parse().ok()
}
