//! Cgroups: every mode means what it says, on v1 and v2; limits bite after a
//! restore; what fails leaves nothing behind.

#[path = "../common/mod.rs"]
mod common;

mod freezer;
mod inputs;
mod limits;
mod modes;
mod namespace;
mod place;
mod refused;
mod spread;

/// What a test says when it fails.
pub(crate) type Result<T = ()> = std::result::Result<T, String>;

/// A directory for one test.
pub(crate) fn scratch() -> Result<tempfile::TempDir> {
    tempfile::TempDir::with_prefix("icecore-cgroups-").map_err(|e| e.to_string())
}
