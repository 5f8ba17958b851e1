//! Options and subcommands of later versions: known, and refused by name, so
//! that nothing that was asked for is silently not done.

use clap::Args;

use super::CliError;

/// The error for something that is not there yet; `part` is what it belongs to.
pub(crate) fn not_yet(name: &str, part: &'static str) -> CliError {
    CliError::NotYet {
        name: name.to_owned(),
        part,
    }
}

/// Swallows the words of a subcommand that is not there yet.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    words: Vec<std::ffi::OsString>,
}

/// Options of later versions of `dump`.
#[derive(Debug, Args)]
pub(crate) struct LaterDump {
    #[arg(long, hide = true)]
    link_remap: bool,
    #[arg(long, alias = "prev-images-dir", hide = true, value_name = "DIR")]
    parent: Option<String>,
    #[arg(long, hide = true)]
    track_mem: bool,
    #[arg(long, hide = true, value_name = "METHOD")]
    compress: Option<String>,
    #[arg(long, hide = true, value_name = "NAME")]
    engine: Option<String>,
}

const INCREMENTS: &str = "incremental images";
const SPEED: &str = "live dumps and other ways to copy pages";

impl LaterDump {
    /// An error if any of them was given.
    pub(crate) fn refuse(&self) -> Result<(), CliError> {
        refuse_given(&[
            (self.link_remap, "--link-remap", "links to deleted files"),
            (self.parent.is_some(), "--parent", INCREMENTS),
            (self.track_mem, "--track-mem", INCREMENTS),
            (self.compress.is_some(), "--compress", SPEED),
            (self.engine.is_some(), "--engine", SPEED),
        ])
    }
}

fn refuse_given(options: &[(bool, &str, &'static str)]) -> Result<(), CliError> {
    let first = options.iter().find(|(given, ..)| *given);
    first.map_or(Ok(()), |(_, name, part)| Err(not_yet(name, part)))
}
