//! The manifest: the list of an image's files, written last. A directory with
//! a manifest is an image; one without is not.

use serde::{Deserialize, Serialize};

use crate::pages::PageFile;

/// Name of the manifest.
pub const MANIFEST: &str = "manifest";

/// Name of the file that holds all metadata.
pub const OBJECTS: &str = "objects";

/// Page files an image may have.
pub const MAX_PAGE_FILES: usize = 4096;

/// Name of page file `n`.
pub fn pages_name(n: usize) -> String {
    format!("pages-{n}")
}

/// Name of a file while it is written.
pub fn temporary_name(name: &str) -> String {
    format!(".{name}.tmp")
}

/// The files of an image: `objects`, then `pages-0`, `pages-1` …
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Every file but the manifest itself, in this order.
    pub files: Vec<ManifestEntry>,
}

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// Its name in the directory.
    pub name: String,
    /// Bytes.
    pub length: u64,
    /// CRC-32 of the whole file; of a page file: of its chunks' checksums, each
    /// as four little-endian bytes.
    pub checksum: u32,
}

/// Why a manifest lists what no image has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// More files than an image may have, or none.
    #[error("lists {0} files")]
    Count(usize),
    /// Another name than the one that belongs there.
    #[error("lists {found:?} where {expected:?} belongs")]
    Name {
        /// What it says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// Its page files are not those of the objects file.
    #[error("lists {manifest} page files, the objects file {objects}")]
    PageFiles {
        /// Page files in the manifest.
        manifest: usize,
        /// Page files in the objects file.
        objects: usize,
    },
    /// A page file's length or checksum is not what the objects file says.
    #[error("and the objects file disagree about {name}")]
    PageFile {
        /// The page file.
        name: String,
    },
}

impl Manifest {
    /// The names are exactly those that an image of this many files has, so no
    /// name from an image ever leads out of its directory.
    pub fn check(&self) -> Result<(), ManifestError> {
        let count = self.files.len();
        if count == 0 || count > MAX_PAGE_FILES + 1 {
            return Err(ManifestError::Count(count));
        }
        for (i, entry) in self.files.iter().enumerate() {
            let expected = match i {
                0 => OBJECTS.to_owned(),
                n => pages_name(n - 1),
            };
            if entry.name != expected {
                let found = entry.name.clone();
                return Err(ManifestError::Name { found, expected });
            }
        }
        Ok(())
    }

    /// The objects file says the same about every page file.
    pub fn check_page_files(&self, page_files: &[PageFile]) -> Result<(), ManifestError> {
        let listed = self.files.get(1..).unwrap_or_default();
        if listed.len() != page_files.len() {
            return Err(ManifestError::PageFiles {
                manifest: listed.len(),
                objects: page_files.len(),
            });
        }
        for (entry, file) in listed.iter().zip(page_files) {
            if entry.length != file.length || entry.checksum != file.checksum() {
                let name = entry.name.clone();
                return Err(ManifestError::PageFile { name });
            }
        }
        Ok(())
    }
}
