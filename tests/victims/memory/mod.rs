//! Memory: every kind of area, and everything an area can be marked with.

mod anonymous;
mod area;
mod busy;
mod files;
mod huge;
mod layout;
mod marks;
mod refused;
mod segments;
mod shared;
mod whole;

use crate::harness::Victim;

pub(crate) fn victims() -> Vec<Victim> {
    [
        anonymous::victims(),
        busy::victims(),
        files::victims(),
        huge::victims(),
        layout::victims(),
        marks::victims(),
        refused::victims(),
        segments::victims(),
        shared::victims(),
        whole::victims(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
