//! Log messages: to stderr, or to a file.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use tracing::level_filters::LevelFilter;

use super::CliError;
use super::common::Common;

impl Common {
    /// Lets log messages flow: to stderr, or to the file asked for, which is
    /// relative to `dir`.
    pub(crate) fn start_logging(&self, dir: &Path) -> Result<(), CliError> {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(filter(self.level()))
            .with_target(self.level() > 3)
            .with_ansi(false);
        match &self.log_file {
            None => subscriber.without_time().with_writer(io::stderr).init(),
            Some(name) => {
                let path = dir.join(name);
                let file = open(&path).map_err(|source| CliError::Log { path, source })?;
                subscriber.with_writer(Arc::new(file)).init();
            }
        }
        Ok(())
    }
}

/// Opens a log file; the directory of an image may not be there yet.
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    if let Some(parent) = path.parent()
        && !parent.exists()
    {
        fs::DirBuilder::new().mode(0o700).create(parent)?;
    }
    let mut options = File::options();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

fn filter(level: u8) -> LevelFilter {
    match level {
        0 => LevelFilter::OFF,
        1 => LevelFilter::ERROR,
        2 => LevelFilter::WARN,
        3 => LevelFilter::INFO,
        4 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}
