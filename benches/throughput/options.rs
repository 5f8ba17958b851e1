//! The command line.

use std::path::PathBuf;

use crate::Outcome;

/// What is to be measured.
#[derive(Debug)]
pub(crate) struct Options {
    /// Every kind of content, page and layout, not only plain memory.
    pub(crate) full: bool,
    /// How often everything is measured.
    pub(crate) rounds: usize,
    /// Bytes of memory.
    pub(crate) sizes: Vec<u64>,
    /// Where images go.
    pub(crate) dirs: Vec<PathBuf>,
    /// Where the report goes.
    pub(crate) out: PathBuf,
}

impl Options {
    /// As they were given.
    pub(crate) fn from_args() -> Outcome<Self> {
        let mut options = Self {
            full: false,
            rounds: 5,
            sizes: Vec::new(),
            dirs: Vec::new(),
            out: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/throughput"),
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} wants a value"));
            match arg.as_str() {
                "--full" => options.full = true,
                "--rounds" => options.rounds = value()?.parse::<usize>()?.max(1),
                "--size" => options.sizes.push(value()?.parse::<u64>()? << 20),
                "--dir" => options.dirs.push(value()?.into()),
                "--out" => options.out = value()?.into(),
                // What cargo itself passes.
                "--bench" => {}
                _ => return Err(format!("unknown option {arg}").into()),
            }
        }
        options.fill_in();
        Ok(options)
    }

    fn fill_in(&mut self) {
        if self.sizes.is_empty() {
            let powers = if self.full { 6..=13 } else { 6..=8 };
            self.sizes = powers.map(|n| 1 << (20 + n)).collect();
        }
        if self.dirs.is_empty() {
            self.dirs = vec![PathBuf::from("/dev/shm"), PathBuf::from("/tmp")];
        }
    }
}
