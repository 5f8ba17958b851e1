//! Makes programs from their sources.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A source file of these tests.
pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/programs/sources")
        .join(name)
}

/// Runs a compiler to its end.
pub(crate) fn compile(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("start {command:?}: {e}; `./test` installs it"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// A command in a session of its own, as nothing of the session it is started
/// from would be in the image.
pub(crate) fn in_session(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setsid");
    command.arg(program.as_ref());
    command
}
