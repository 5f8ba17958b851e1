//! Trees of processes. What they look like is compared from outside
//! (`common::outside`): parents, groups, sessions, states, threads,
//! descriptors, and what they have in common; what only they can tell they
//! check themselves.

mod common_files;
mod common_memory;
mod ended;
mod family;
mod segments;
mod shape;
mod sockets;
mod watching;

use crate::harness::Victim;

pub(crate) fn victims() -> Vec<Victim> {
    [
        shape::victims(),
        ended::victims(),
        common_files::victims(),
        common_memory::victims(),
        watching::victims(),
        sockets::victims(),
        segments::victims(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
