//! From words to a [`CommandLine`]: `-v4`, default options from files, and
//! what is printed when the words make no sense.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use super::{CliError, CommandLine, Words, config, report};

/// Why a command line is not carried out.
#[derive(Debug)]
pub struct Stopped {
    why: Why,
    json: bool,
}

#[derive(Debug)]
enum Why {
    /// Help or version were asked for, or the words make no sense.
    Clap(clap::Error),
    /// The default options could not be had.
    Config(CliError),
}

/// Reads a command line, with the options of the default configuration files
/// put before its own.
///
/// # Errors
/// What is to be printed instead of doing anything.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<CommandLine, Stopped> {
    let words: Words = words.into_iter().map(rewrite).collect();
    let json = words.iter().any(|word| word == "--json");
    let stopped = |why| Stopped { why, json };
    let words = config::with_defaults(words, &CommandLine::command())
        .map_err(|e| stopped(Why::Config(e)))?;
    CommandLine::try_parse_from(words).map_err(|e| stopped(Why::Clap(e)))
}

/// Words that mean others to clap.
fn rewrite(word: OsString) -> OsString {
    // In its place among --outside, of which the last one that fits holds.
    match word == "--ext-unix-sk" {
        true => "--outside=unix=auto".into(),
        false => rewrite_verbosity(word),
    }
}

/// `-v4` means verbosity 4 to CRIU's users; to clap it would be `-v -4`.
fn rewrite_verbosity(word: OsString) -> OsString {
    let level = word.to_str().and_then(|word| word.strip_prefix("-v"));
    match level {
        Some(level) if !level.is_empty() && level.bytes().all(|b| b.is_ascii_digit()) => {
            format!("--verbosity={level}").into()
        }
        _ => word,
    }
}

impl Stopped {
    /// Prints why, and gives the exit status.
    pub fn print(&self) -> ExitCode {
        match &self.why {
            Why::Config(error) => report::failure(error, self.json),
            Why::Clap(error) if self.json && error.use_stderr() => report::usage(error),
            // Nobody is left to be told that the output is gone.
            Why::Clap(error) => drop(error.print()),
        }
        match &self.why {
            Why::Clap(error) => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
            Why::Config(_) => ExitCode::FAILURE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &str) -> Result<CommandLine, Stopped> {
        let words = format!("icecore --no-default-config {words}");
        parse(words.split(' ').map(OsString::from))
    }

    #[test]
    fn clap_finds_no_fault_with_the_definitions() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn verbosity_may_be_glued_to_its_option() {
        assert_eq!(rewrite_verbosity("-v4".into()), "--verbosity=4");
        assert_eq!(rewrite_verbosity("-vv".into()), "-vv");
        assert_eq!(rewrite_verbosity("-v".into()), "-v");
        assert!(line("dump -v4 -t 1 -D /tmp").is_ok());
        assert!(line("dump -vv -t 1 -D /tmp").is_ok());
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(line("dump -t 1 -D /tmp -R").is_ok());
        assert!(line("dump -t 1 -D /tmp -s").is_ok());
        assert!(line("dump -t 1 -D /tmp -R -s").is_err());
        assert!(line("dump -t 1").is_err());
        assert!(line("dump -D /tmp").is_err());
        assert!(line("dump -t 1 -D /tmp --no-such-option").is_err());
        assert!(line("restore").is_err());
    }
}
