//! What would stand in the way of a dump, without one.

use super::{DumpContext, freeze, gather, on_thread_of_its_own};
use crate::blocker::Blocker;
use crate::error::DumpError;
use crate::kernel::open_files::ManyFiles;
use crate::options::DumpOptions;

/// All blockers of a dump with these options. The target is frozen for the
/// moment it takes to look at it; nothing is copied or written.
pub(crate) fn blockers(options: &DumpOptions) -> Result<Vec<Blocker>, DumpError> {
    on_thread_of_its_own(|| {
        let _many_files = ManyFiles::allow();
        let (mut frozen, standstill) = freeze(options)?;
        let mut ctx = DumpContext::new(options);
        gather(&mut ctx, &mut frozen)?;
        let pid = options.pid;
        standstill.end();
        frozen
            .resume()
            .map_err(|source| DumpError::Release { pid, source })?;
        Ok(ctx.blockers)
    })
}
