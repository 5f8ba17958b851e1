//! epoll(7).

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;

use icecore_images::epoll::{EpollState, EpollTarget};
use icecore_images::files::FileKind;
use icecore_images::ids::DescriptionId;

use super::DumpContext;
use super::descriptor::Descriptor;
use super::descriptors::Collection;
use crate::error::DumpError;
use crate::kernel::fdinfo::EpollInfo;
use crate::kernel::kcmp;

/// The registrations, each with the very description it watches: that of its
/// number, or, where the number was closed or used again since, that of any
/// other descriptor.
pub(super) fn describe(
    ctx: &mut DumpContext<'_>,
    all: &Collection,
    d: &Descriptor,
) -> Result<Option<FileKind>, DumpError> {
    let mut targets = Vec::new();
    // Several registrations of one number differ by the description.
    let mut earlier: HashMap<u32, u32> = HashMap::new();
    for info in &d.info.epoll {
        let count = earlier.entry(info.fd).or_default();
        let index = std::mem::replace(count, *count + 1);
        match find(all, d, info, index).map_err(|e| d.error("epoll registrations", e))? {
            Some(description) => targets.push(EpollTarget {
                fd: info.fd,
                description,
                events: info.events,
                data: info.data,
            }),
            None => {
                let problem = format!(
                    "epoll watches a file registered as fd {} which no descriptor of any task \
                     refers to any more",
                    info.fd
                );
                d.refuse(ctx, problem, None);
            }
        }
    }
    Ok(Some(FileKind::Epoll(EpollState { targets })))
}

fn find(
    all: &Collection,
    d: &Descriptor,
    info: &EpollInfo,
    index: u32,
) -> std::io::Result<Option<DescriptionId>> {
    let is = |target: &Descriptor| {
        kcmp::is_epoll_target(target.place_of_file(), d.place_of_file(), info.fd, index)
    };
    if let Some(at) = all.find(d.table.id, info.fd)
        && is(&all.descriptors[at])?
    {
        return Ok(Some(all.descriptions[at]));
    }
    for (id, holders) in all.holders.iter().enumerate() {
        let other = &all.descriptors[holders[0]];
        if other.meta.ino() == info.inode && is(other)? {
            return Ok(Some(DescriptionId(id as u32)));
        }
    }
    Ok(None)
}
