//! `icecore keeper`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use icecore_images::{Checkpoint, Image};
use serde::Serialize;

use super::common::Common;
use super::inspect::descriptors;
use super::{CliError, report};
use crate::keeper::{Caller, Holdings};

/// Look after the connections that are kept for an image
///
/// `dump --outside keep` leaves them with a keeper, a small process that holds
/// them open until a restore takes them back.
#[derive(Debug, Args)]
pub(crate) struct KeeperArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show what is kept for the image in a directory
    List {
        /// Directory of the image
        dir: PathBuf,
    },
    /// Let it all go: the other ends see the connections closed
    Release {
        /// Directory of the image
        dir: PathBuf,
    },
}

/// What is kept, for programs.
#[derive(Debug, Serialize)]
struct Shown {
    keeper: Holdings,
    kept: Vec<Kept>,
}

#[derive(Debug, Serialize)]
struct Kept {
    description: u32,
    fds: Vec<Fd>,
    what: String,
}

#[derive(Debug, Serialize)]
struct Fd {
    pid: u32,
    fd: u32,
}

impl KeeperArgs {
    /// Does it.
    pub(crate) fn run(&self, common: &Common) -> Result<ExitCode, CliError> {
        match &self.what {
            What::List { dir } => list(common, dir)?,
            What::Release { dir } => {
                let image = Image::open(dir)?;
                Caller::connect(dir, image.id)?.release()?;
                if common.json {
                    report::success(&serde_json::json!({}));
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn list(common: &Common, dir: &Path) -> Result<(), CliError> {
    let image = Image::open(dir)?;
    let keeper = Caller::connect(dir, image.id)?.list()?;
    let kept: Vec<Kept> = keeper
        .kept
        .iter()
        .map(|&id| kept(&image.checkpoint, id))
        .collect();
    if common.json {
        report::success(&Shown { keeper, kept });
        return Ok(());
    }
    let time = match keeper.left {
        Some(left) => format!("{} seconds more", left.as_secs()),
        None => "until a restore takes it back".to_owned(),
    };
    report::line(&format!("keeper pid {}, {time}", keeper.pid));
    if let Some(pid) = keeper.lent_to {
        report::line(&format!("  being restored by pid {pid}"));
    }
    for Kept { fds, what, .. } in kept {
        let fds: Vec<String> = fds
            .iter()
            .map(|f| format!("pid {} fd {}", f.pid, f.fd))
            .collect();
        report::line(&format!("  {}: {what}", fds.join(", ")));
    }
    Ok(())
}

fn kept(image: &Checkpoint, description: u32) -> Kept {
    let tables = image.tasks.iter().filter_map(|task| {
        let table = image.fd_tables.iter().find(|t| t.id == task.fd_table)?;
        Some((task.pid, table))
    });
    let fds = tables.flat_map(|(pid, table)| {
        let entries = table.entries.iter();
        let entries = entries.filter(|e| e.description.0 == description);
        entries.map(move |e| Fd { pid, fd: e.fd })
    });
    let file = image.files.get(description as usize);
    Kept {
        description,
        fds: fds.collect(),
        what: file.map_or_else(
            || "nothing of this image".to_owned(),
            |f| descriptors::what(image, f),
        ),
    }
}
