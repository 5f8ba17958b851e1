//! `icecore verify`.

use std::process::ExitCode;

use clap::Args;
use icecore_images::Image;
use indicatif::BinaryBytes;
use serde::Serialize;

use super::common::Common;
use super::image_dir::ImageDir;
use super::{CliError, report};

/// Read every byte of an image and say whether it is sound
///
/// Checks what restore checks (manifest, versions, checksums, and that the
/// metadata makes sense) and every page besides. It does not look at the
/// files the process had open: `icecore restore --dry-run` does.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    image: ImageDir,
}

#[derive(Debug, Serialize)]
struct Verified {
    id: String,
    files: usize,
    bytes: u64,
}

impl VerifyArgs {
    /// Reads it all.
    pub(crate) fn run(&self, common: &Common) -> Result<ExitCode, CliError> {
        let dir = self.image.path();
        common.start_logging(dir)?;
        let image = Image::open(dir)?;
        let damaged = image.verify(&mut |_| {});
        if !damaged.is_empty() {
            return Err(CliError::Damaged {
                dir: dir.to_owned(),
                damaged,
            });
        }
        let verified = Verified {
            id: image.id.to_string(),
            files: image.manifest.files.len() + 1,
            bytes: image.bytes(),
        };
        if common.json {
            report::success(&verified);
        } else {
            report::line(&sentence(dir, &verified));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn sentence(dir: &std::path::Path, verified: &Verified) -> String {
    format!(
        "{} is sound: {} files, {}",
        dir.display(),
        verified.files,
        BinaryBytes(verified.bytes)
    )
}
