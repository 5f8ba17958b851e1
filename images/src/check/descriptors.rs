//! Descriptor tables.

use super::MAX_FD;
use super::numbers::{id, refers, within};
use super::problem::{At, CheckError, Found, Object, Problem};
use crate::checkpoint::Checkpoint;
use crate::files::FdTable;

pub(super) fn check(image: &Checkpoint) -> Result<(), CheckError> {
    for (place, table) in image.fd_tables.iter().enumerate() {
        let object = Object::FdTable(table.id.0);
        id(table.id.0, place).at(object)?;
        entries(image, table).at(object)?;
    }
    Ok(())
}

fn entries(image: &Checkpoint, table: &FdTable) -> Found {
    let mut last = None;
    for entry in &table.entries {
        within("descriptor", entry.fd, 0..=MAX_FD)?;
        if last >= Some(entry.fd) {
            let (what, value) = ("descriptor", u64::from(entry.fd));
            return Err(Problem::Order { what, value });
        }
        last = Some(entry.fd);
        refers(
            "open file description",
            entry.description.0,
            image.files.len(),
        )?;
    }
    Ok(())
}
