//! Sockets and other descriptors that are refused, with what is said of them.

use crate::harness::{Stage, Victim};
use crate::regular::text;

pub(crate) fn victims() -> Vec<Victim> {
    vec![Victim::refused(
        "socket-all-at-once",
        "3 things cannot be carried over",
        several,
    )]
}

fn several(stage: &mut Stage) -> Result<(), String> {
    let open = || std::fs::File::open("/dev/ptmx").map_err(text("/dev/ptmx"));
    let all = (open()?, open()?, open()?);
    while stage.next()? {}
    drop(all);
    Ok(())
}
