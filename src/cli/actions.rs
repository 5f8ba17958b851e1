//! `--action-script`: a program of the user's that runs at every stage. Names
//! of stages and variables are those CRIU's users know.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::observer::Moment;

/// A program that is run at every stage.
#[derive(Debug, Clone)]
pub(crate) struct ActionScript {
    program: PathBuf,
}

impl ActionScript {
    /// Runs `program`.
    pub(crate) fn new(program: &Path) -> Self {
        Self {
            program: program.to_owned(),
        }
    }

    /// Runs it for a stage; that it fails is an error.
    pub(crate) fn run(&self, moment: &Moment) -> io::Result<()> {
        let mut command = Command::new(&self.program);
        command
            .env("CRTOOLS_SCRIPT_ACTION", moment.stage.name())
            .env(
                "CRTOOLS_IMAGE_DIR",
                std::path::absolute(&moment.images_dir)?,
            )
            .stdin(Stdio::null());
        match moment.init_pid {
            Some(pid) => command.env("CRTOOLS_INIT_PID", pid.to_string()),
            None => command.env_remove("CRTOOLS_INIT_PID"),
        };
        let status = command
            .status()
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", self.program.display())))?;
        match status.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!(
                "{} ended with {status}",
                self.program.display()
            ))),
        }
    }
}
