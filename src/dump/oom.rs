//! Who is to go first when memory runs out during a dump: we, not the target.

use std::fs;

const OWN: &str = "/proc/self/oom_score_adj";

/// While it lives, this process is the first the kernel ends for want of
/// memory.
#[derive(Debug)]
pub(super) struct FirstToGo {
    before: Option<String>,
}

impl FirstToGo {
    /// Makes it so. Where that is not possible nothing is changed: it is a
    /// precaution, not a condition.
    pub(super) fn now() -> Self {
        let before = fs::read_to_string(OWN).ok();
        let before = before.filter(|_| fs::write(OWN, "1000").is_ok());
        Self { before }
    }

    /// The score as it was.
    pub(super) fn before(&self) -> &str {
        self.before.as_deref().unwrap_or("0")
    }
}

impl Drop for FirstToGo {
    /// Raising the score without CAP_SYS_RESOURCE leaves the floor to which it
    /// may be lowered again; with it there is no floor.
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = fs::write(OWN, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_as_before_afterwards() {
        let read = || fs::read_to_string(OWN).unwrap_or_default();
        let before = read();
        let first = FirstToGo::now();
        assert_eq!(read().trim(), "1000");
        drop(first);
        assert_eq!(read(), before);
    }
}
