//! Descriptor numbers: ours must lie where the task has none, so that placing
//! the task's descriptors in a process that inherited ours treads on nothing.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use icecore_images::Checkpoint;
use icecore_images::files::FileKind;

/// Numbers that tasks of the image use.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    taken: BTreeSet<u32>,
    next: u32,
}

impl Numbers {
    /// Numbers of all descriptors, and those under which epoll instances know
    /// descriptors.
    pub(super) fn of(image: &Checkpoint) -> Self {
        let entries = image.fd_tables.iter().flat_map(|t| &t.entries);
        let registered = image.files.iter().filter_map(|f| match &f.kind {
            FileKind::Epoll(state) => Some(state.targets.iter().map(|t| t.fd)),
            _ => None,
        });
        Self {
            taken: entries.map(|e| e.fd).chain(registered.flatten()).collect(),
            next: 3,
        }
    }

    /// The highest; `None` where there is none.
    pub(super) fn highest(&self) -> Option<u32> {
        self.taken.last().copied()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.taken.len()
    }

    /// The same descriptor under a number that no task uses.
    pub(super) fn lift(&mut self, fd: OwnedFd) -> io::Result<OwnedFd> {
        if !self.taken.contains(&(fd.as_raw_fd() as u32)) {
            return Ok(fd);
        }
        loop {
            while self.taken.contains(&self.next) {
                self.next += 1;
            }
            let lifted = rustix::io::fcntl_dupfd_cloexec(&fd, self.next as i32)?;
            let number = lifted.as_raw_fd() as u32;
            self.next = number + 1;
            if !self.taken.contains(&number) {
                return Ok(lifted);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifted_descriptor_lies_where_nothing_is_taken() {
        let mut numbers = Numbers {
            taken: (0..200).chain(202..300).collect(),
            next: 3,
        };
        let open = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let lifted: Vec<OwnedFd> = (0..4).map(|_| numbers.lift(open()).unwrap()).collect();
        for fd in &lifted {
            let n = fd.as_raw_fd();
            assert!(n == 200 || n == 201 || n >= 300, "{n}");
        }
        assert_eq!(numbers.highest(), Some(299));
    }
}
