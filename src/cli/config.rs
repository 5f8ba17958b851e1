//! Default options from files: `/etc/icecore/default.conf`, then
//! `~/.icecore/default.conf`; what the command line says comes last and wins.
//!
//! One option a line, without its dashes, its value after a blank or `=`;
//! `#` starts a comment. A line whose option the subcommand at hand does not
//! have, but another has, is passed over: one file serves them all.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Arg, Command};

use super::{CliError, Words};

const SYSTEM: &str = "/etc/icecore/default.conf";

/// Puts the options of the default files before those of the command line.
pub(crate) fn with_defaults(words: Words, icecore: &Command) -> Result<Words, CliError> {
    if words.iter().any(|word| word == "--no-default-config") {
        return Ok(words);
    }
    let Some(at) = words.iter().position(|word| is_subcommand(icecore, word)) else {
        return Ok(words);
    };
    let mut defaults = Words::new();
    for file in files() {
        match read(&file, icecore, &words[at]) {
            // HOME may be somebody else's, as under sudo: then it is their file.
            Err(CliError::Config { path, source }) if is_others(&path, &source) => {
                let path = path.display();
                warn(&format!("{path}: {source}; going on without it"));
            }
            words => defaults.extend(words?),
        }
    }
    let (before, after) = words.split_at(at + 1);
    Ok([before, &defaults, after].concat())
}

/// Whether this is a user's file that we may not read. (One of the system's that
/// we may not read is a mistake of whoever put it there.)
fn is_others(file: &Path, error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied && file != Path::new(SYSTEM)
}

/// Nothing is set up yet that would print it otherwise.
#[allow(clippy::print_stderr)]
fn warn(text: &str) {
    eprintln!("warning: {text}");
}

fn is_subcommand(icecore: &Command, word: &OsString) -> bool {
    icecore.find_subcommand(word).is_some()
}

fn files() -> Vec<PathBuf> {
    let home = std::env::home_dir().map(|home| home.join(".icecore/default.conf"));
    [Some(PathBuf::from(SYSTEM)), home]
        .into_iter()
        .flatten()
        .collect()
}

fn read(file: &Path, icecore: &Command, subcommand: &OsString) -> Result<Words, CliError> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Words::new()),
        Err(source) => {
            let path = file.to_owned();
            return Err(CliError::Config { path, source });
        }
    };
    let mut words = Words::new();
    for (number, line) in (1..).zip(text.lines()) {
        let unknown = |option: &str| CliError::ConfigLine {
            path: file.to_owned(),
            line: number,
            option: option.to_owned(),
        };
        words.extend(words_of(line, icecore, subcommand).map_err(unknown)?);
    }
    Ok(words)
}

/// The words a line stands for; an error with the option nobody knows.
fn words_of<'a>(line: &'a str, icecore: &Command, subcommand: &OsString) -> Result<Words, &'a str> {
    let line = line.split('#').next().unwrap_or("").trim();
    if line.is_empty() {
        return Ok(Words::new());
    }
    let (option, value) = match line.split_once(|c: char| c == '=' || c.is_whitespace()) {
        Some((option, value)) => (option, value.trim()),
        None => (line, ""),
    };
    let has = |command: &Command| command.get_arguments().any(|arg| is_called(arg, option));
    let wanted = icecore.find_subcommand(subcommand).is_some_and(has) || has(icecore);
    match (wanted, value) {
        (true, "") => Ok(vec![format!("--{option}").into()]),
        (true, value) => Ok(vec![format!("--{option}={value}").into()]),
        (false, _) if icecore.get_subcommands().any(has) => Ok(Words::new()),
        (false, _) => Err(option),
    }
}

fn is_called(arg: &Arg, option: &str) -> bool {
    let aliases = arg.get_all_aliases().unwrap_or_default();
    arg.get_long() == Some(option) || aliases.contains(&option)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::CommandLine;
    use super::*;

    fn words(line: &str, subcommand: &str) -> Result<Words, String> {
        let icecore = CommandLine::command();
        words_of(line, &icecore, &subcommand.into()).map_err(str::to_owned)
    }

    #[test]
    fn a_line_is_an_option_of_the_command_line() {
        assert_eq!(
            words("ghost-limit 4M", "dump"),
            Ok(vec!["--ghost-limit=4M".into()])
        );
        assert_eq!(
            words("ghost-limit=4M", "dump"),
            Ok(vec!["--ghost-limit=4M".into()])
        );
        assert_eq!(
            words("leave-running # always", "dump"),
            Ok(vec!["--leave-running".into()])
        );
        assert_eq!(
            words("verbosity 4", "dump"),
            Ok(vec!["--verbosity=4".into()])
        );
        assert_eq!(words("  # nothing", "dump"), Ok(vec![]));
    }

    #[test]
    fn options_of_other_subcommands_are_passed_over_and_unknown_ones_are_not() {
        assert_eq!(words("ghost-limit 4M", "restore"), Ok(vec![]));
        assert_eq!(
            words("gohst-limit 4M", "dump"),
            Err("gohst-limit".to_owned())
        );
    }
}
