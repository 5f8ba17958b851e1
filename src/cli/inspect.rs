//! `icecore inspect`: what an image holds, for people and for programs.

mod cgroups;
mod date;
pub(super) mod descriptors;
mod memory;
mod objects;
mod table;
mod tasks;
mod words;

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use icecore_images::{Checkpoint, Image};
use indicatif::BinaryBytes;
use serde::Serialize;

use super::common::Common;
use super::image_dir::ImageDir;
use super::{CliError, report};

/// Show what an image holds: tasks, threads, memory, descriptors, cgroups
///
/// With --json all of it, field by field, for programs. The image's metadata
/// is checked as restore checks it; its pages are not read (`icecore verify`
/// reads them).
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  icecore inspect /var/ice/job\n  \
    icecore inspect /var/ice/job --json | jq '.checkpoint.tasks[].pid'")]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    image: ImageDir,
}

/// What programs are told.
#[derive(Debug, Serialize)]
struct Inspection<'a> {
    dir: String,
    id: String,
    format: String,
    bytes: u64,
    files: &'a [icecore_images::manifest::ManifestEntry],
    checkpoint: &'a Checkpoint,
}

impl InspectArgs {
    /// Shows it.
    pub(crate) fn run(&self, common: &Common) -> Result<ExitCode, CliError> {
        let dir = self.image.path();
        common.start_logging(dir)?;
        let image = Image::open(dir)?;
        if common.json {
            report::success(&Inspection {
                dir: dir.display().to_string(),
                id: image.id.to_string(),
                format: format(&image),
                bytes: image.bytes(),
                files: &image.manifest.files,
                checkpoint: &image.checkpoint,
            });
        } else {
            report::line(text(&image).trim_end());
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn format(image: &Image) -> String {
    let (major, minor) = image.version;
    format!("{major}.{minor}")
}

/// The whole of it, part by part. Writing to a string cannot fail.
fn text(image: &Image) -> String {
    let mut out = String::new();
    heading(&mut out, image);
    let checkpoint = &image.checkpoint;
    for task in &checkpoint.tasks {
        tasks::show(&mut out, checkpoint, task);
    }
    for mm in &checkpoint.mms {
        memory::show(&mut out, checkpoint, mm);
    }
    for table in &checkpoint.fd_tables {
        descriptors::show(&mut out, checkpoint, table);
    }
    objects::show(&mut out, checkpoint);
    cgroups::show(&mut out, checkpoint);
    out
}

fn heading(out: &mut String, image: &Image) {
    let machine = &image.checkpoint.machine;
    let pages: u64 = image.checkpoint.page_files.iter().map(|f| f.length).sum();
    let command: Vec<String> = machine.command.iter().map(ToString::to_string).collect();
    let _ = writeln!(out, "{}", title(&image.checkpoint));
    let _ = writeln!(out, "  image    {}", image.dir.display());
    let _ = writeln!(
        out,
        "  made     {} on {}, Linux {}, {}",
        date::utc(machine.created),
        machine.host,
        machine.kernel,
        machine.cpu
    );
    let _ = writeln!(
        out,
        "  by       icecore {}: {}",
        machine.icecore,
        command.join(" ")
    );
    let _ = writeln!(
        out,
        "  size     {}: {} of pages, {} of metadata",
        BinaryBytes(image.bytes()),
        BinaryBytes(pages),
        BinaryBytes(image.bytes() - pages)
    );
    let _ = writeln!(out, "  format   {}, id {}", format(image), image.id);
}

/// `a.out (pid 1234), 2 threads`, and how many more tasks there are.
fn title(checkpoint: &Checkpoint) -> String {
    let Some(first) = checkpoint.tasks.first() else {
        return "an image without tasks".to_owned();
    };
    let name = first.threads.first().map(|t| t.comm.to_string());
    let mut title = format!(
        "{} (pid {}), {}",
        name.unwrap_or_default(),
        first.pid,
        words::count(first.threads.len(), "thread")
    );
    match checkpoint.tasks.len() - 1 {
        0 => {}
        more => {
            let _ = write!(title, ", and {}", words::count(more, "more task"));
        }
    }
    title
}
