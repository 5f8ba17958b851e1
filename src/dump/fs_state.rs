//! Working directory, root, umask.

use icecore_images::files::FsState;
use icecore_images::ids::FsId;
use icecore_images::regular::FileRef;

use super::DumpContext;
use super::descriptor::{Table, read_error};
use super::file_ref::{self, Link};
use crate::blocker::Place;
use crate::error::DumpError;

/// Describes the task's fs struct.
pub(super) fn collect(ctx: &mut DumpContext<'_>, id: FsId, table: &Table) -> Result<(), DumpError> {
    let cwd = directory(ctx, table, "cwd")?;
    let root = directory(ctx, table, "root")?;
    let umask = umask(table)?;
    // What is missing has been noted as a blocker: this dump ends before
    // anything is written.
    if let (Some(cwd), Some(root)) = (cwd, root) {
        let state = FsState {
            id,
            cwd,
            root,
            umask,
        };
        ctx.tables.fs.push(state);
    }
    Ok(())
}

fn directory(
    ctx: &mut DumpContext<'_>,
    table: &Table,
    name: &str,
) -> Result<Option<FileRef>, DumpError> {
    let link = Link {
        pid: table.pid,
        place: &Place::Task { pid: table.pid },
        path: &table.proc().join(name),
    };
    file_ref::describe(ctx, link)
}

fn umask(table: &Table) -> Result<u32, DumpError> {
    let error = |e| read_error(table.pid, "umask in /proc/PID/status", e);
    let status = std::fs::read(table.proc().join("status")).map_err(error)?;
    status
        .split(|&b| b == b'\n')
        .find_map(|line| line.strip_prefix(b"Umask:\t"))
        .and_then(|value| std::str::from_utf8(value).ok())
        .and_then(|value| u32::from_str_radix(value.trim(), 8).ok())
        .ok_or_else(|| error(std::io::ErrorKind::InvalidData.into()))
}
