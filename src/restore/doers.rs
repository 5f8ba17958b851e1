//! Who does what is to be done once for a description that several tables have:
//! register with epoll, arm a timer, take a lock, set the owner.

use icecore_images::Checkpoint;
use icecore_images::files::{FdTable, FileKind, OpenFile};
use icecore_images::ids::{DescriptionId, FdTableId};

use super::epoll;

/// By description the table whose first task does it; `None` for those that no
/// table has.
#[derive(Debug)]
pub(super) struct Doers {
    setting_up: Vec<Option<FdTableId>>,
    owning: Vec<Option<FdTableId>>,
}

impl Doers {
    /// Decides.
    pub(super) fn of(image: &Checkpoint) -> Self {
        let mut holders: Vec<Vec<&FdTable>> = vec![Vec::new(); image.files.len()];
        for table in &image.fd_tables {
            for entry in &table.entries {
                if let Some(holders) = holders.get_mut(entry.description.0 as usize)
                    && holders.last().is_none_or(|last| last.id != table.id)
                {
                    holders.push(table);
                }
            }
        }
        let files = || image.files.iter().zip(&holders);
        Self {
            setting_up: files().map(|(file, of)| best(file, of)).collect(),
            owning: files()
                .map(|(file, of)| owner(image, file, of).or(best(file, of)))
                .collect(),
        }
    }

    /// Whether `table` sets the description up.
    pub(super) fn sets_up(&self, table: &FdTable, id: DescriptionId) -> bool {
        self.setting_up.get(id.0 as usize) == Some(&Some(table.id))
    }

    /// Whether `table` sets its owner.
    pub(super) fn owns(&self, table: &FdTable, id: DescriptionId) -> bool {
        self.owning.get(id.0 as usize) == Some(&Some(table.id))
    }
}

/// An epoll instance knows what it watches by number: the table that has most
/// of it where it was. (`max_by_key` gives the last of equals.)
fn best(file: &OpenFile, holders: &[&FdTable]) -> Option<FdTableId> {
    let FileKind::Epoll(state) = &file.kind else {
        return holders.first().map(|table| table.id);
    };
    let fresh = |table: &&&FdTable| {
        let targets = state.targets.iter();
        targets.filter(|t| !epoll::is_stale(table, t)).count()
    };
    holders.iter().rev().max_by_key(fresh).map(|table| table.id)
}

/// A description remembers the credentials of who set its owner: a table whose
/// task has them.
fn owner(image: &Checkpoint, file: &OpenFile, holders: &[&FdTable]) -> Option<FdTableId> {
    let (real, effective) = file.owner.as_ref()?.uids;
    let fits = |table: &&&FdTable| {
        let mut tasks = image.tasks.iter().filter(|t| t.fd_table == table.id);
        tasks.any(|task| {
            let uids = task.threads.first().map(|thread| thread.creds.uids);
            uids.is_some_and(|[ruid, euid, ..]| (ruid, euid) == (real, effective))
        })
    };
    holders.iter().find(fits).map(|table| table.id)
}
