//! Files of an image that is not finished: a guardian removes them if icecore
//! is killed.

use std::path::Path;

use icecore_images::ImageWriter;
use icecore_images::manifest::{MANIFEST, OBJECTS, pages_name, temporary_name};
use icecore_images::store::WriteOptions;

use crate::error::DumpError;
use crate::options::DumpOptions;
use crate::tracer::{Guardian, Undo, fault};

/// Makes the directory ready for an image, under a guardian's watch. Nothing
/// the guardian may remove belongs to anyone else: the files' names are told to
/// it only once the directory is locked and cleared, and all of them stay where
/// there is a manifest.
pub(super) fn open_image(options: &DumpOptions) -> Result<(ImageWriter, Guardian), DumpError> {
    let dir = &options.images_dir;
    let failed = |source| DumpError::Guardian { source };
    let mut guardian = Guardian::spawn().map_err(failed)?;
    if !dir.exists() {
        let (path, unless) = (dir.clone(), None);
        guardian
            .undo_later(&Undo::RemoveDir { path, unless })
            .map_err(failed)?;
    }
    let write_options = WriteOptions {
        beside: options.beside.clone(),
        observer: Some(Box::new(|_| fault::point(fault::Kind::Write))),
    };
    let writer = ImageWriter::create_with(dir, write_options)?;
    tell_files(&mut guardian, dir).map_err(failed)?;
    Ok((writer, guardian))
}

fn tell_files(guardian: &mut Guardian, dir: &Path) -> std::io::Result<()> {
    // A live dump writes two page files.
    let files = [OBJECTS.to_owned(), pages_name(0), pages_name(1)];
    let all = files.iter().map(String::as_str).chain([MANIFEST]);
    let temporary: Vec<_> = all.map(temporary_name).collect();
    for name in files.into_iter().chain(temporary) {
        guardian.undo_later(&Undo::RemoveFile {
            path: dir.join(name),
            unless: Some(dir.join(MANIFEST)),
        })?;
    }
    Ok(())
}
