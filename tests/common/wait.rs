//! Bounded waiting for conditions.

use std::time::{Duration, Instant};

/// The longest anything may take in a test before it counts as hanging.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Asks `condition` until it says `Some` or an error; an error names `what`
/// after `limit`.
pub(crate) fn until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>, String>,
) -> Result<T, String> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            return Err(format!("waited {limit:?} in vain for {what}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
