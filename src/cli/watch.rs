//! What the command line does while an operation runs: action scripts and the
//! progress line.

use std::io;
use std::sync::Arc;

use super::actions::ActionScript;
use super::common::Common;
use super::progress::ProgressLine;
use crate::observer::{Moment, Observer, Progress};

/// Watches an operation for the command line.
#[derive(Debug)]
struct Watch {
    script: Option<ActionScript>,
    line: ProgressLine,
}

impl Common {
    /// Who watches the operation.
    pub(crate) fn observer(&self) -> Arc<dyn Observer> {
        let script = self.action_script.as_deref().map(ActionScript::new);
        let line = ProgressLine::new();
        Arc::new(Watch { script, line })
    }
}

impl Observer for Watch {
    fn stage(&self, moment: &Moment) -> io::Result<()> {
        tracing::info!(stage = moment.stage.name(), "reached");
        match &self.script {
            Some(script) => script.run(moment),
            None => Ok(()),
        }
    }

    fn needs_it_frozen(&self) -> bool {
        self.script.is_some()
    }

    fn progress(&self, progress: Progress) {
        self.line.show(progress);
    }
}
