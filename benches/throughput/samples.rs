//! Everything that was measured.

use serde::Serialize;

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    pub(crate) case: String,
    /// One of the cases that differ in size only.
    pub(crate) plain: bool,
    /// Bytes.
    pub(crate) size: u64,
    pub(crate) dir: String,
    pub(crate) what: String,
    pub(crate) round: usize,
    pub(crate) us: u64,
    pub(crate) frozen_us: Option<u64>,
}

/// All of them, in the order in which they were taken.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Samples(Vec<Sample>);

/// What the samples of one thing come to.
#[derive(Debug, Clone)]
pub(crate) struct Summary {
    pub(crate) case: String,
    pub(crate) plain: bool,
    pub(crate) size: u64,
    pub(crate) dir: String,
    pub(crate) what: String,
    /// Median, least and most, microseconds.
    pub(crate) us: [u64; 3],
    pub(crate) frozen_us: Option<[u64; 3]>,
}

impl Summary {
    /// MiB a second.
    pub(crate) fn rate(&self) -> f64 {
        self.size as f64 / (1 << 20) as f64 / (self.us[0].max(1) as f64 / 1e6)
    }
}

impl Samples {
    pub(crate) fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    pub(crate) fn all(&self) -> &[Sample] {
        &self.0
    }

    /// A summary of each thing, in the order in which they were first measured.
    pub(crate) fn summaries(&self) -> Vec<Summary> {
        let mut seen: Vec<Summary> = Vec::new();
        for sample in &self.0 {
            let same = |other: &Sample| {
                (&other.case, &other.dir, &other.what) == (&sample.case, &sample.dir, &sample.what)
            };
            if sample.round != 0 {
                continue;
            }
            let all: Vec<&Sample> = self.0.iter().filter(|other| same(other)).collect();
            let frozen: Vec<u64> = all.iter().filter_map(|s| s.frozen_us).collect();
            seen.push(Summary {
                case: sample.case.clone(),
                plain: sample.plain,
                size: sample.size,
                dir: sample.dir.clone(),
                what: sample.what.clone(),
                us: spread(all.iter().map(|s| s.us).collect()),
                frozen_us: (!frozen.is_empty()).then(|| spread(frozen)),
            });
        }
        seen
    }
}

/// Median, least and most.
fn spread(mut values: Vec<u64>) -> [u64; 3] {
    values.sort_unstable();
    [
        values[values.len() / 2],
        values[0],
        values[values.len() - 1],
    ]
}
