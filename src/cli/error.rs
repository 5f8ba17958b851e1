//! What can go wrong on the command line itself, and how every error is laid
//! out for its reader.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use icecore_images::ReadError;
use serde::Serialize;

use crate::blocker::{Blocker, Obstacle, Place};
use crate::error::{DumpError, RestoreError};
use crate::keeper::KeeperError;
use crate::kernel::features::Feature;

/// Any error of the command line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// A dump failed.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// A restore failed.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// An image could not be read.
    #[error(transparent)]
    Image(#[from] ReadError),
    /// Pages of an image are damaged; all that are.
    #[error("verify {}: {} damaged", .dir.display(), places(.damaged.len()))]
    Damaged {
        /// The image.
        dir: PathBuf,
        /// What is damaged.
        damaged: Vec<ReadError>,
    },
    /// Known, but not there yet.
    #[error("{name} is not supported yet")]
    NotYet {
        /// The option or subcommand.
        name: String,
        /// What it belongs to.
        part: &'static str,
    },
    /// A file of default options could not be read.
    #[error("read default options from {}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of default options names an option nobody knows.
    #[error("{}:{line}: there is no option {option}", .path.display())]
    ConfigLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The option.
        option: String,
    },
    /// A description of cgroup properties could not be read.
    #[error("read cgroup properties from {}", .path.display())]
    CgroupProps {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The log file could not be opened.
    #[error("open log file {}", .path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The operation succeeded, but its caller could not be told.
    #[error("{what}")]
    Tell {
        /// What was to be written where.
        what: String,
        /// Why it was not.
        #[source]
        source: io::Error,
    },
    /// Signals could not be caught.
    #[error("catch signals")]
    Signals {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The demo has not seen what it should have.
    #[error("demo: {what}")]
    Demo {
        /// What it has seen.
        what: String,
    },
    /// The demo could not be set up.
    #[error("demo: {what}")]
    DemoIo {
        /// The step.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A keeper could not be asked.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// This machine lacks something.
    #[error("check: this machine lacks {}", names(.features))]
    Lacking {
        /// What.
        features: Vec<Feature>,
    },
    /// There is no feature of this name.
    #[error("check: there is no feature {name}")]
    NoSuchFeature {
        /// The name.
        name: String,
    },
    /// The restored process could not be waited for.
    #[error("wait for pid {pid}")]
    Wait {
        /// The process.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One of the things an error lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Item {
    /// Where it is, for programs.
    pub(crate) place: Place,
    /// Where it is, for people.
    pub(crate) at: String,
    /// What is wrong.
    pub(crate) problem: String,
    /// What would change it.
    pub(crate) help: Option<String>,
}

impl CliError {
    /// The causes, outermost first.
    pub(crate) fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut next = self.source();
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        causes
    }

    /// What it lists: blockers or obstacles.
    pub(crate) fn items(&self) -> Vec<Item> {
        match self {
            CliError::Dump(DumpError::Blocked { blockers, .. }) => {
                blockers.iter().map(Item::from).collect()
            }
            CliError::Restore(RestoreError::Obstacles { obstacles, .. }) => {
                obstacles.iter().map(Item::from).collect()
            }
            CliError::Lacking { features } => features.iter().map(Item::from).collect(),
            CliError::Damaged { damaged, .. } => damaged.iter().map(Item::from).collect(),
            _ => Vec::new(),
        }
    }

    /// What would change it.
    pub(crate) fn help(&self) -> Option<String> {
        match self {
            CliError::NotYet { part, .. } => {
                Some(format!("a later version of icecore will carry {part}"))
            }
            CliError::NoSuchFeature { .. } => {
                Some("`icecore check --all` shows their names".to_owned())
            }
            CliError::ConfigLine { .. } | CliError::Config { .. } => {
                Some("--no-default-config goes without default options".to_owned())
            }
            CliError::Damaged { .. } => {
                Some("the image is damaged: take it from a copy, or dump again".to_owned())
            }
            CliError::Dump(error) => error.help(),
            CliError::Keeper(error) | CliError::Restore(RestoreError::Keeper { source: error }) => {
                error.help().map(str::to_owned)
            }
            CliError::Restore(RestoreError::Image(error)) | CliError::Image(error) => {
                error.help().map(str::to_owned)
            }
            _ => None,
        }
    }
}

/// `kcmp and mseal`.
fn names(features: &[Feature]) -> String {
    let names: Vec<&str> = features.iter().map(|feature| feature.name).collect();
    names.join(" and ")
}

fn places(n: usize) -> String {
    match n {
        1 => "one place".to_owned(),
        n => format!("{n} places"),
    }
}

impl From<&Feature> for Item {
    fn from(feature: &Feature) -> Self {
        Self {
            place: Place::Machine,
            at: feature.name.to_owned(),
            problem: feature.missing.clone().unwrap_or_default(),
            help: Some(format!("needed for: {}", feature.purpose)),
        }
    }
}

impl From<&ReadError> for Item {
    fn from(error: &ReadError) -> Self {
        let path = error.path().display().to_string();
        Self {
            at: path.clone(),
            place: Place::Path { path },
            problem: error.problem(),
            help: None,
        }
    }
}

impl From<&Blocker> for Item {
    fn from(blocker: &Blocker) -> Self {
        Self {
            at: blocker.place.to_string(),
            place: blocker.place.clone(),
            problem: blocker.problem.clone(),
            help: blocker.help.clone(),
        }
    }
}

impl From<&Obstacle> for Item {
    fn from(obstacle: &Obstacle) -> Self {
        Self {
            at: obstacle.place.to_string(),
            place: obstacle.place.clone(),
            problem: obstacle.problem.clone(),
            help: obstacle.help.clone(),
        }
    }
}
