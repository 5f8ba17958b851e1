//! What is printed: results on stdout, the one error on stderr; with `--json`
//! one object on stdout for either.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use serde::Serialize;
use serde_json::{Value, json};

use super::CliError;

/// Prints an error: as text on stderr, or as JSON on stdout.
pub(crate) fn failure(error: &CliError, json: bool) {
    if json {
        line(&json!({ "ok": false, "error": as_json(error) }).to_string());
    } else {
        // Nobody is left to be told that stderr is gone.
        let _ = io::stderr().write_all(as_text(error).as_bytes());
    }
}

/// Prints as JSON that the words of the command line make no sense.
pub(crate) fn usage(error: &clap::Error) {
    let text = error.render().to_string();
    let message = text.lines().next().unwrap_or_default();
    let message = message.trim_start_matches("error: ");
    line(&json!({ "ok": false, "error": { "message": message, "usage": text } }).to_string());
}

/// Prints a result as JSON, next to `"ok": true`.
pub(crate) fn success(result: &impl Serialize) {
    let mut object = json!({ "ok": true });
    if let (Value::Object(into), Ok(Value::Object(from))) =
        (&mut object, serde_json::to_value(result))
    {
        into.extend(from);
    }
    line(&object.to_string());
}

/// Prints what an operation cost, a line for each figure.
pub(crate) fn stats(stats: &impl Serialize) {
    if let Ok(Value::Object(figures)) = serde_json::to_value(stats) {
        for (name, value) in figures {
            line(&format!("{name}: {}", value.to_string().trim_matches('"')));
        }
    }
}

/// Prints a line on stdout. A reader that has gone away wants no more of it.
pub(crate) fn line(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn as_json(error: &CliError) -> Value {
    json!({
        "message": error.to_string(),
        "causes": error.causes(),
        "items": error.items(),
        "help": error.help(),
    })
}

/// `error: dump pid 7: 2 things …`, then a line for each of them, each followed
/// by what would help.
fn as_text(error: &CliError) -> String {
    let mut text = format!("error: {error}");
    for cause in error.causes() {
        text = text + ": " + &cause;
    }
    text.push('\n');
    for item in error.items() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {}: {}", item.at, item.problem);
        if let Some(help) = item.help {
            let _ = writeln!(text, "    help: {help}");
        }
    }
    if let Some(help) = error.help() {
        let _ = writeln!(text, "help: {help}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocker::{Blocker, Place};
    use crate::error::DumpError;

    fn blocked() -> CliError {
        let blocker = |fd, help: Option<&str>| Blocker {
            place: Place::Fd { pid: 7, fd },
            problem: "a socket".to_owned(),
            help: help.map(str::to_owned),
        };
        CliError::from(DumpError::Blocked {
            pid: 7,
            blockers: vec![blocker(3, None), blocker(4, Some("close it"))],
        })
    }

    #[test]
    fn every_blocker_has_its_line_and_its_help() {
        let text = "error: dump pid 7: 2 things cannot be carried over\n  \
             pid 7 fd 3: a socket\n  \
             pid 7 fd 4: a socket\n    help: close it\n";
        assert_eq!(as_text(&blocked()), text);
    }

    #[test]
    fn causes_follow_on_the_same_line() {
        let error = CliError::Config {
            path: "/etc/x".into(),
            source: io::Error::other("no luck"),
        };
        let text = "error: read default options from /etc/x: no luck\n\
             help: --no-default-config goes without default options\n";
        assert_eq!(as_text(&error), text);
    }

    #[test]
    fn programs_get_the_same() {
        let value = as_json(&blocked());
        assert_eq!(
            value["message"],
            "dump pid 7: 2 things cannot be carried over"
        );
        assert_eq!(value["items"][1]["help"], "close it");
        assert_eq!(value["items"][1]["place"]["fd"]["fd"], 4);
    }
}
