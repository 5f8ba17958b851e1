//! The directory of an image, as the subcommands that only look at it take it.

use std::path::{Path, PathBuf};

use clap::Args;

/// The directory of an image.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ImageDir {
    /// Directory of the image
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,

    /// The same, as dump and restore take it
    #[arg(short = 'D', long, value_name = "DIR")]
    images_dir: Option<PathBuf>,
}

impl ImageDir {
    /// The directory given, one way or the other.
    pub(crate) fn path(&self) -> &Path {
        let given = self.dir.as_deref().or(self.images_dir.as_deref());
        given.unwrap_or(Path::new("."))
    }
}
