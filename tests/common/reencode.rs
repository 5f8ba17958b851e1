//! Images that differ from a real one in what a test wants, with every checksum
//! right: another machine might have made them.

use std::fs;
use std::io::Write;
use std::path::Path;

use icecore_images::checkpoint::Checkpoint;
use icecore_images::manifest::pages_name;
use icecore_images::{Image, ImageWriter};

/// Writes the image in `from`, changed, into the new directory `to`.
pub(crate) fn changed(
    from: &Path,
    to: &Path,
    change: impl FnOnce(&mut Checkpoint),
) -> Result<(), String> {
    let image = Image::open(from).map_err(|e| e.to_string())?;
    let mut checkpoint = image.checkpoint;
    let mut writer = ImageWriter::create(to).map_err(|e| e.to_string())?;
    for (n, _) in (0_u32..).zip(&checkpoint.page_files) {
        let pages = fs::read(from.join(pages_name(n as usize))).map_err(|e| e.to_string())?;
        let mut file = writer.page_file(n).map_err(|e| e.to_string())?;
        file.write_all(&pages).map_err(|e| e.to_string())?;
    }
    change(&mut checkpoint);
    writer.commit(&checkpoint).map_err(|e| e.to_string())?;
    Ok(())
}
