//! Documentation that quotes options, files or tests is held against the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const SUBCOMMANDS: [&str; 6] = ["dump", "restore", "check", "inspect", "verify", "demo"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README, CHANGELOG and all of docs/.
fn documents() -> Result<Vec<(PathBuf, String)>> {
    let mut paths = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    let mut dirs = vec![root().join("docs")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            match path.is_dir() {
                true => dirs.push(path),
                false if path.extension().is_some_and(|e| e == "md") => paths.push(path),
                false => {}
            }
        }
    }
    let read = |path: PathBuf| Ok((path.clone(), fs::read_to_string(path)?));
    paths.into_iter().map(read).collect()
}

/// The options that a subcommand's help shows, long and short.
fn options_of(subcommand: &str) -> Result<BTreeSet<String>> {
    let mut icecore = Command::new(env!("CARGO_BIN_EXE_icecore"));
    let output = icecore
        .args([subcommand, "--no-default-config", "--help"])
        .output()?;
    let help = String::from_utf8(output.stdout)?;
    let words = help.split(|c: char| c.is_whitespace() || "[]<>,.()".contains(c));
    Ok(words
        .filter(|w| w.starts_with('-'))
        .map(str::to_owned)
        .collect())
}

fn all_options() -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for subcommand in SUBCOMMANDS {
        all.extend(options_of(subcommand)?);
    }
    Ok(all)
}

/// `--name` in running text or code, without its value.
fn long_options(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.match_indices("--")
        .filter(|&(at, _)| !text[..at].ends_with(is_part))
        .map(|(at, _)| {
            let rest = &text[at..];
            &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())]
        })
        .filter(|option| option.len() > 2 && option.as_bytes()[2].is_ascii_lowercase())
        .collect()
}

#[test]
fn options_that_are_quoted_exist() -> Result {
    /// Options of other programs: cargo, and the bench.
    const OTHERS: [&str; 10] = [
        "--release",
        "--workspace",
        "--offline",
        "--locked",
        "--bench",
        "--full",
        "--size",
        "--rounds",
        "--dir",
        "--out",
    ];
    let known = all_options()?;
    let mut unknown = Vec::new();
    for (path, text) in documents()? {
        for option in long_options(&text) {
            if !known.contains(option) && !OTHERS.contains(&option) {
                unknown.push(format!("{}: {option}", path.display()));
            }
        }
    }
    assert!(
        unknown.is_empty(),
        "there are no such options: {unknown:#?}"
    );
    Ok(())
}

#[test]
fn commands_that_are_quoted_parse() -> Result {
    for (path, text) in documents()? {
        for line in text.lines().filter_map(|l| l.strip_prefix("# icecore ")) {
            let line = line.split(['#', '|']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let subcommand = words.next().unwrap_or_default();
            let known = options_of(subcommand)?;
            for option in words.filter(|w| w.starts_with('-')) {
                let quoted = format!("{}: icecore {subcommand} {option}", path.display());
                assert!(known.contains(option), "{quoted}: no such option");
            }
        }
    }
    Ok(())
}

#[test]
fn every_option_is_explained() -> Result {
    for subcommand in SUBCOMMANDS {
        let mut icecore = Command::new(env!("CARGO_BIN_EXE_icecore"));
        let output = icecore
            .args([subcommand, "--no-default-config", "-h"])
            .output()?;
        let help = String::from_utf8(output.stdout)?;
        let mut lines = help.lines().peekable();
        while let Some(line) = lines.next() {
            let option = line.trim_start();
            let alone = option.starts_with('-') && !option.contains("  ");
            let followed = lines
                .peek()
                .is_some_and(|next| next.starts_with("          "));
            assert!(
                !alone || followed,
                "{subcommand}: {option} is not explained"
            );
        }
    }
    Ok(())
}

#[test]
fn links_lead_somewhere() -> Result {
    for (path, text) in documents()? {
        let dir = path.parent().unwrap_or(root());
        for (_, rest) in text
            .match_indices("](")
            .map(|(at, _)| text.split_at(at + 2))
        {
            let link = rest.split([')', '#']).next().unwrap_or_default();
            let outside = link.is_empty() || link.contains("://");
            assert!(
                outside || dir.join(link).exists(),
                "{}: {link} does not exist",
                path.display()
            );
        }
    }
    Ok(())
}

#[test]
fn tests_that_are_named_exist() -> Result {
    for (path, text) in documents()? {
        for (at, _) in text.match_indices("tests/") {
            let is_part = |c: char| c.is_ascii_alphanumeric() || "_/.-".contains(c);
            let start = text[..at]
                .rfind(|c| !is_part(c))
                .map_or(0, |before| before + 1);
            let rest = &text[start..];
            let name = &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())];
            let name = name.trim_end_matches(['.', '/']);
            assert!(
                root().join(name).exists(),
                "{}: {name} does not exist",
                path.display()
            );
        }
    }
    Ok(())
}

#[test]
fn figures_are_explained() -> Result {
    let text = fs::read_to_string(root().join("docs/stats.md"))?;
    let dump = serde_json::to_value(icecore::DumpStats::default())?;
    let restore = serde_json::to_value(icecore::RestoreStats::default())?;
    for figure in [dump, restore]
        .iter()
        .filter_map(|v| v.as_object())
        .flat_map(|o| o.keys())
    {
        assert!(
            text.contains(&format!("| {figure} |")),
            "{figure} is not explained"
        );
    }
    Ok(())
}
