//! How the result of an operation reaches those who asked for it.

use std::fs;
use std::path::Path;

use super::common::Common;
use super::{CliError, report};
use crate::kernel::inherited;
use crate::stats::{DumpReport, RestoreReport};

impl Common {
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

fn note(notes: &[String]) {
    for note in notes {
        tracing::warn!("{note}");
    }
}
