//! `icecore check`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::common::Common;
use super::{CliError, report};
use crate::builder::Check;
use crate::error::DumpError;
use crate::kernel::features::{Feature, Features};

/// Tell what this machine offers, or what stands in the way of a dump
///
/// Without options: whether all that icecore needs is there.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Show everything that makes a difference, with what it is for
    #[arg(long, conflicts_with_all = ["feature", "pid"])]
    all: bool,

    /// Succeed if this one is there (--all shows their names)
    #[arg(long, value_name = "NAME", conflicts_with = "pid")]
    feature: Option<String>,

    /// List everything that stands in the way of a dump of this process, which
    /// stands still for a moment and goes on
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
}

impl CheckArgs {
    /// Looks and tells.
    pub(crate) fn run(&self, common: &Common) -> Result<ExitCode, CliError> {
        if let Some(pid) = self.pid {
            return process(pid, common);
        }
        let features = Features::probe();
        match &self.feature {
            Some(name) => one(&features, name, common),
            None => all(&features, self.all, common),
        }
    }
}

fn process(pid: u32, common: &Common) -> Result<ExitCode, CliError> {
    let blockers = Check::new(pid).run()?;
    if !blockers.is_empty() {
        return Err(DumpError::Blocked { pid, blockers }.into());
    }
    match common.json {
        true => report::success(&json!({ "pid": pid })),
        false => report::line(&format!("nothing stands in the way of a dump of pid {pid}")),
    }
    Ok(ExitCode::SUCCESS)
}

fn one(features: &Features, name: &str, common: &Common) -> Result<ExitCode, CliError> {
    let feature = features.get(name).ok_or_else(|| CliError::NoSuchFeature {
        name: name.to_owned(),
    })?;
    if feature.missing.is_some() {
        return Err(CliError::Lacking {
            features: vec![feature.clone()],
        });
    }
    match common.json {
        true => report::success(feature),
        false => report::line(&format!("{name}: yes")),
    }
    Ok(ExitCode::SUCCESS)
}

fn all(features: &Features, show: bool, common: &Common) -> Result<ExitCode, CliError> {
    let lacking: Vec<Feature> = features
        .list
        .iter()
        .filter(|feature| feature.required && feature.missing.is_some())
        .cloned()
        .collect();
    if show && !common.json {
        features
            .list
            .iter()
            .for_each(|feature| report::line(&row(feature)));
    }
    if !lacking.is_empty() {
        return Err(CliError::Lacking { features: lacking });
    }
    match common.json {
        true => report::success(&json!({ "features": features.list })),
        false => report::line(&verdict(features)),
    }
    Ok(ExitCode::SUCCESS)
}

/// `pagemap_scan            yes   finding pages fast …`
fn row(feature: &Feature) -> String {
    let Feature {
        name,
        purpose,
        missing,
        ..
    } = feature;
    match missing {
        None => format!("{name:<24}yes   {purpose}"),
        Some(why) => format!("{name:<24}no    {purpose} ({why})"),
    }
}

fn verdict(features: &Features) -> String {
    let missing: Vec<&str> = features
        .list
        .iter()
        .filter(|feature| feature.missing.is_some())
        .map(|feature| feature.name)
        .collect();
    match missing.is_empty() {
        true => "all that icecore can use is here".to_owned(),
        false => format!(
            "all that icecore needs is here; missing, and needed by some only: {}",
            missing.join(", ")
        ),
    }
}
