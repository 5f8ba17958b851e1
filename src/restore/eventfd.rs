//! eventfd(2).

use std::os::fd::OwnedFd;

use icecore_images::eventfd::EventFdState;
use rustix::event::EventfdFlags;
use rustix::fs::OFlags;

/// An eventfd with its count.
pub(super) fn open(state: &EventFdState, flags: OFlags) -> std::io::Result<OwnedFd> {
    let mut how = EventfdFlags::CLOEXEC;
    how.set(EventfdFlags::SEMAPHORE, state.semaphore);
    how.set(EventfdFlags::NONBLOCK, flags.contains(OFlags::NONBLOCK));
    let fd = rustix::event::eventfd(0, how)?;
    if state.count != 0 {
        // The initial count of eventfd2(2) has 32 bits only.
        rustix::io::write(&fd, &state.count.to_ne_bytes())?;
    }
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_count_fits() {
        let state = EventFdState {
            count: u64::MAX - 1,
            semaphore: false,
        };
        let fd = open(&state, OFlags::NONBLOCK).unwrap();
        let mut count = [0; 8];
        rustix::io::read(&fd, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), u64::MAX - 1);
    }
}
