//! How many files this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// While it lives, this process may have as many files open as its hard limit
/// allows: a tree of a thousand tasks takes several thousand.
#[derive(Debug)]
pub struct ManyFiles {
    before: Rlimit,
}

impl ManyFiles {
    /// Raises the soft limit. Where that is not possible nothing is changed.
    pub fn allow() -> Self {
        let before = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: before.maximum,
            maximum: before.maximum,
        };
        let _ = setrlimit(Resource::Nofile, raised);
        Self { before }
    }
}

impl Drop for ManyFiles {
    fn drop(&mut self) {
        let _ = setrlimit(Resource::Nofile, self.before);
    }
}
