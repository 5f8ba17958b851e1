//! What is measured: a target, and everything that is done with it in a round.

use std::fmt;
use std::path::Path;

use crate::Outcome;
use crate::limits;
use crate::options::Options;
use crate::samples::{Sample, Samples};
use crate::target::Target;
use crate::tools::{self, Tool};

/// What the memory of a target is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Case {
    /// Bytes that are written to.
    pub(crate) size: u64,
    pub(crate) content: &'static str,
    pub(crate) pages: &'static str,
    pub(crate) layout: &'static str,
}

pub(crate) const CONTENTS: [&str; 4] = ["random", "text", "zeros", "duplicate"];
pub(crate) const PAGES: [&str; 2] = ["4k", "thp"];
pub(crate) const LAYOUTS: [&str; 3] = ["one", "2000-areas", "every-other-page"];

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.size >> 20;
        write!(
            f,
            "{mib} MiB {} {} {}",
            self.content, self.pages, self.layout
        )
    }
}

impl Case {
    fn plain(size: u64) -> Self {
        Self {
            size,
            content: CONTENTS[0],
            pages: PAGES[0],
            layout: LAYOUTS[0],
        }
    }

    /// Whether it is one of those that differ in size only.
    pub(crate) fn is_plain(&self) -> bool {
        *self == Self::plain(self.size)
    }

    /// The case that a target is told by its environment.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let mut known = |all: &[&'static str]| {
            let word = words.next()?;
            all.iter().find(|known| **known == word).copied()
        };
        let (content, pages, layout) = (known(&CONTENTS)?, known(&PAGES)?, known(&LAYOUTS)?);
        Some(Self {
            size: words.next()?.parse().ok()?,
            content,
            pages,
            layout,
        })
    }

    /// The same as text.
    pub(crate) fn to_text(&self) -> String {
        format!(
            "{} {} {} {}",
            self.content, self.pages, self.layout, self.size
        )
    }
}

/// All sizes of plain memory; the middle one in all other shapes.
pub(crate) fn sweep(options: &Options) -> Vec<Case> {
    let mut cases: Vec<_> = options
        .sizes
        .iter()
        .map(|size| Case::plain(*size))
        .collect();
    let Some(middle) = cases.get(cases.len() / 2).cloned() else {
        return cases;
    };
    if options.full {
        cases.extend(CONTENTS[1..].iter().map(|&content| Case {
            content,
            ..middle.clone()
        }));
        cases.extend(PAGES[1..].iter().map(|&pages| Case {
            pages,
            ..middle.clone()
        }));
        cases.extend(LAYOUTS[1..].iter().map(|&layout| Case {
            layout,
            ..middle.clone()
        }));
    }
    cases
}

/// Measures everything about a case, alternately.
pub(crate) fn measure(case: &Case, dir: &Path, rounds: usize, all: &mut Samples) -> Outcome<()> {
    let scratch = tempfile::Builder::new()
        .prefix("icecore-bench-")
        .tempdir_in(dir)?;
    let mut target = Target::start(case, scratch.path())?;
    let others: Vec<Tool> = tools::others();
    for round in 0..rounds {
        let mut note = |what: &str, us: u64, frozen_us: Option<u64>| {
            all.push(Sample {
                case: case.to_string(),
                plain: case.is_plain(),
                size: case.size,
                dir: dir.display().to_string(),
                what: what.to_owned(),
                round,
                us,
                frozen_us,
            });
        };
        for (what, us) in limits::measure(case.size, scratch.path())? {
            note(what, us, None);
        }
        let image = scratch.path().join("image");
        for (what, options) in [
            ("dump -R", &["-R"][..]),
            ("dump -R --live", &["-R", "--live"]),
        ] {
            let cost = tools::dump(target.pid(), &image, options)?;
            note(what, cost.us, cost.frozen_us);
            std::fs::remove_dir_all(&image)?;
        }
        for other in &others {
            if let Some(us) = other.dump(target.pid(), &image)? {
                note(other.name, us, Some(us));
            }
        }
        let cost = tools::dump(target.pid(), &image, &[])?;
        note("dump", cost.us, cost.frozen_us);
        target.reap()?;
        let cost = tools::restore(&image)?;
        note("restore", cost.us, None);
        std::fs::remove_dir_all(&image)?;
        target.verify()?;
    }
    Ok(())
}
