//! Holds the tree of dependencies against `deny.toml`: licences, sources,
//! banned crates, crates that are there twice. Works offline, in every run;
//! cargo-deny reads the same file and looks closer, where it is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::process::Command;

use serde::Deserialize;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// `None`: part of this workspace.
    source: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Policy {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Debug, Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
struct Bans {
    deny: Vec<Named>,
    skip: Vec<Named>,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

fn packages() -> Result<Vec<Package>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version=1", "--locked", "--offline"]);
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    Ok(metadata.packages)
}

fn policy() -> Result<Policy> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml");
    Ok(toml::from_str(&std::fs::read_to_string(path)?)?)
}

/// Whether an SPDX expression can be met with `allowed` licences alone.
/// Understands OR (also written `/`), AND and one level of parentheses, where
/// OR binds looser.
fn is_met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let flat = expression.replace('/', " OR ");
    let any_of = |group: &str| group.split(" OR ").any(|l| allowed.contains(l.trim()));
    match flat.contains('(') {
        true => flat
            .split(" AND ")
            .all(|part| any_of(part.trim().trim_matches(['(', ')']))),
        false => flat
            .split(" OR ")
            .any(|choice| choice.split(" AND ").all(|l| allowed.contains(l.trim()))),
    }
}

#[test]
fn licences_are_allowed() -> Result<()> {
    let allowed = policy()?.licenses.allow;
    let wrong: Vec<String> = packages()?
        .into_iter()
        .filter(|p| !p.license.as_deref().is_some_and(|l| is_met(l, &allowed)))
        .map(|p| format!("{} {}: {:?}", p.name, p.version, p.license))
        .collect();
    assert!(wrong.is_empty(), "licences not allowed: {wrong:#?}");
    Ok(())
}

#[test]
fn sources_are_the_registry_and_this_workspace() -> Result<()> {
    let wrong: Vec<Package> = packages()?
        .into_iter()
        .filter(|p| {
            p.source
                .as_deref()
                .is_some_and(|s| !s.starts_with("registry+"))
        })
        .collect();
    assert!(wrong.is_empty(), "other sources: {wrong:#?}");
    Ok(())
}

#[test]
fn nothing_banned_is_there() -> Result<()> {
    let banned: BTreeSet<String> = policy()?.bans.deny.into_iter().map(|b| b.name).collect();
    let found: Vec<Package> = packages()?
        .into_iter()
        .filter(|p| banned.contains(&p.name))
        .collect();
    assert!(found.is_empty(), "banned: {found:#?}");
    Ok(())
}

#[test]
fn nothing_is_there_twice() -> Result<()> {
    let skipped: BTreeSet<String> = policy()?.bans.skip.into_iter().map(|s| s.name).collect();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages()? {
        versions
            .entry(package.name)
            .or_default()
            .insert(package.version);
    }
    versions.retain(|name, found| found.len() > 1 && !skipped.contains(name));
    assert!(versions.is_empty(), "several versions: {versions:#?}");
    Ok(())
}

#[test]
fn expressions_are_understood() {
    let allowed = ["MIT", "Unicode-3.0"].map(str::to_owned).into();
    for met in [
        "MIT",
        "MIT OR GPL-3.0",
        "GPL-3.0/MIT",
        "(MIT OR X) AND Unicode-3.0",
    ] {
        assert!(is_met(met, &allowed), "{met}");
    }
    for unmet in ["GPL-3.0", "MIT AND GPL-3.0", "(GPL-3.0 OR X) AND MIT", ""] {
        assert!(!is_met(unmet, &allowed), "{unmet}");
    }
}
