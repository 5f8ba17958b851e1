//! The progress line: for anything that takes more than a second, on a
//! terminal only.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::observer::Progress;

/// What goes faster than this needs no line.
const PATIENCE: Duration = Duration::from_secs(1);

/// A line on stderr, drawn once the operation has taken a while.
#[derive(Debug)]
pub(crate) struct ProgressLine {
    started: Instant,
    bar: OnceLock<ProgressBar>,
}

impl ProgressLine {
    /// Nothing is drawn yet.
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            bar: OnceLock::new(),
        }
    }

    /// Shows how far it is.
    pub(crate) fn show(&self, progress: Progress) {
        if self.started.elapsed() < PATIENCE {
            return;
        }
        let bar = self.bar.get_or_init(|| bar(self.started));
        bar.set_length(progress.total_bytes);
        bar.set_message(frozen(progress.frozen));
        bar.set_position(progress.done_bytes);
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

fn bar(started: Instant) -> ProgressBar {
    // Draws nothing where stderr is no terminal.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    let template = "{bar:24} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, \
                    {eta} left{msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_elapsed(started.elapsed())
}

/// `, frozen for 1.2 s`; nothing where nobody is frozen.
fn frozen(time: Duration) -> String {
    match time.is_zero() {
        true => String::new(),
        false => format!(", frozen for {:.1} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_drawn_in_the_first_second() {
        let line = ProgressLine::new();
        assert!(line.bar.get().is_none());
        line.show(Progress::default());
        assert!(line.bar.get().is_none(), "nothing is drawn within a second");
        assert_eq!(frozen(Duration::ZERO), "");
        assert_eq!(frozen(Duration::from_millis(1234)), ", frozen for 1.2 s");
    }
}
