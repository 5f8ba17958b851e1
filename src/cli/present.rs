//! How the result of an operation reaches those who asked for it.

use std::fs;
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::common::Common;
use super::{CliError, report};
use crate::kernel::inherited;
use crate::stats::{DumpReport, RestoreReport};

impl Common {
    /// Makes sure, before anything is done, that its result can be told where it
    /// is to be told.
    pub(crate) fn can_tell(&self, pidfile: Option<&Path>) -> Result<(), CliError> {
        if let Some(path) = pidfile {
            writable(path).map_err(|source| CliError::Tell {
                what: format!("write pidfile {}", path.display()),
                source: source.into(),
            })?;
        }
        let Some(fd) = self.status_fd else {
            return Ok(());
        };
        inherited::is_open(fd).map_err(|source| CliError::Tell {
            what: format!("write to --status-fd {fd}"),
            source,
        })
    }

    /// Presents what came of a dump.
    pub(crate) fn dumped(&self, dumped: &DumpReport) -> Result<(), CliError> {
        note(&dumped.notes);
        match self.json {
            true => report::success(dumped),
            false if self.display_stats => report::stats(&dumped.stats),
            false => {}
        }
        self.tell_status()
    }

    /// Presents what came of a restore.
    pub(crate) fn restored(
        &self,
        restored: &RestoreReport,
        pidfile: Option<&Path>,
    ) -> Result<(), CliError> {
        note(&restored.notes);
        if let (Some(path), Some(pid)) = (pidfile, restored.pid) {
            fs::write(path, pid.to_string()).map_err(|source| CliError::Tell {
                what: format!("pid {pid} runs, but write pidfile {}", path.display()),
                source,
            })?;
        }
        match self.json {
            true => report::success(restored),
            false if self.display_stats => report::stats(&restored.stats),
            false => {}
        }
        self.tell_status()
    }

    /// `--status-fd`: a zero byte, then end of file.
    fn tell_status(&self) -> Result<(), CliError> {
        let Some(fd) = self.status_fd else {
            return Ok(());
        };
        inherited::write_and_close(fd, &[0]).map_err(|source| CliError::Tell {
            what: format!("all is done, but write to --status-fd {fd}"),
            source,
        })
    }
}

/// Whether a file can be written, or made where there is none.
fn writable(path: &Path) -> Result<(), Errno> {
    match access(path, Access::WRITE_OK) {
        Err(Errno::NOENT) => {
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
            access(dir.unwrap_or(Path::new(".")), Access::WRITE_OK)
        }
        other => other,
    }
}

fn note(notes: &[String]) {
    for note in notes {
        tracing::warn!("{note}");
    }
}
