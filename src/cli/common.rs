//! Options that every subcommand has.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args};

/// Options that every subcommand has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Common {
    /// Write log messages to this file instead of stderr; relative to the
    /// images directory
    #[arg(short = 'o', long, value_name = "FILE", global = true)]
    pub(crate) log_file: Option<PathBuf>,

    /// Say more: each -v adds a level to the default of 2; -vN sets it
    #[arg(short, action = ArgAction::Count, global = true)]
    verbose: u8,

    /// How much is said: 0 nothing, 1 errors, 2 warnings, 3 what is done,
    /// 4 details, 5 everything
    #[arg(long, value_name = "N", global = true)]
    verbosity: Option<u8>,

    /// Print the result, or the error, as one JSON object on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Print what it cost: times in microseconds, pages, bytes
    #[arg(long, global = true)]
    pub(crate) display_stats: bool,

    /// Run this program at every stage, told by CRTOOLS_SCRIPT_ACTION
    /// (pre-dump, post-dump, pre-restore, post-restore, pre-resume,
    /// post-resume), CRTOOLS_IMAGE_DIR and CRTOOLS_INIT_PID; if it fails, so
    /// does the operation
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) action_script: Option<PathBuf>,

    /// Write a zero byte to this inherited descriptor and close it once the
    /// process is asleep, or runs again
    #[arg(long, value_name = "FD", global = true)]
    pub(crate) status_fd: Option<u32>,

    /// Do not read /etc/icecore/default.conf and ~/.icecore/default.conf
    #[arg(long, global = true)]
    pub(crate) no_default_config: bool,
}

impl Common {
    /// Names of files of these options' own that lie in `dir`.
    pub(crate) fn files_in(&self, dir: &Path) -> Vec<OsString> {
        let log = self.log_file.as_ref().map(|name| dir.join(name));
        let log = log.filter(|path| path.parent() == Some(dir));
        log.and_then(|path| path.file_name().map(OsString::from))
            .into_iter()
            .collect()
    }

    /// The verbosity asked for.
    pub(crate) fn level(&self) -> u8 {
        const DEFAULT: u8 = 2;
        let asked = self.verbosity.unwrap_or(DEFAULT);
        asked.saturating_add(self.verbose)
    }
}
