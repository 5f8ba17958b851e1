//! Options about cgroups, as CRIU's users know them.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::CliError;
use crate::options::{
    CgroupMode, CgroupOptions, CgroupProperties, CgroupRoot, CgroupSelection, CgroupSpecError,
};

/// Options that dump and restore have in common.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cgroups")]
pub(crate) struct CgroupArgs {
    /// What of cgroups is recorded, or restored; given without a mode: soft.
    /// Not given: a dump records all, a restore leaves cgroups alone
    #[arg(long, value_enum, value_name = "MODE", num_args = 0..=1, require_equals = true,
        default_missing_value = "soft")]
    manage_cgroups: Option<Mode>,

    /// Dump: record all cgroups from this one on; otherwise those with tasks
    /// and what is below. Restore: put the root of the dump here. For the
    /// hierarchy of controller CTRL, or for all that have no root of their own
    #[arg(long, value_name = "[CTRL:]/PATH")]
    cgroup_root: Vec<CgroupRoot>,

    /// Find hierarchies in this directory, one named after each
    /// (`cpu,cpuacct`, `systemd`, `unified`), rather than by their mounts
    #[arg(long, value_name = "DIR")]
    cgroup_yard: Option<PathBuf>,
}

/// Options of dump.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cgroups")]
pub(crate) struct CgroupDumpArgs {
    /// Record only the hierarchies of this controller and of others named so
    #[arg(long, value_name = "NAME")]
    cgroup_dump_controller: Vec<String>,

    /// Record these properties, in simple YAML: `"memory": - "strategy":
    /// "merge" - "properties": ["memory.low"]`; strategy replace leaves out the
    /// usual ones
    #[arg(long, value_name = "SPEC", value_parser = Specified::parse)]
    cgroup_props: Vec<Specified>,

    /// The same, read from a file
    #[arg(long, value_name = "FILE")]
    cgroup_props_file: Vec<PathBuf>,

    /// Bring the process to a standstill by the cgroup of this directory
    /// before it is traced; the cgroup is thawed again whatever happens
    #[arg(long, value_name = "DIR")]
    freeze_cgroup: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Leave cgroups alone
    Ignore,
    /// Enter cgroups, which must exist
    None,
    /// Enter cgroups, which must exist, and set their properties
    Props,
    /// Enter cgroups; make those that are missing, with their properties
    Soft,
    /// The same, and set the properties of those that exist
    Full,
    /// Make all cgroups, of which none may exist
    Strict,
}

impl From<Mode> for CgroupMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Ignore => CgroupMode::Ignore,
            Mode::None => CgroupMode::None,
            Mode::Props => CgroupMode::Props,
            Mode::Soft => CgroupMode::Soft,
            Mode::Full => CgroupMode::Full,
            Mode::Strict => CgroupMode::Strict,
        }
    }
}

/// Properties of any number of controllers.
#[derive(Debug, Clone)]
struct Specified(Vec<CgroupProperties>);

impl Specified {
    fn parse(text: &str) -> Result<Self, CgroupSpecError> {
        CgroupProperties::parse(text).map(Self)
    }
}

impl CgroupArgs {
    /// The library's options.
    pub(crate) fn options(&self) -> CgroupOptions {
        CgroupOptions {
            // Not given is a mode of its own, and no other turns into it.
            mode: self.manage_cgroups.map_or(CgroupMode::NotGiven, Into::into),
            roots: self.cgroup_root.clone(),
            yard: self.cgroup_yard.clone(),
        }
    }
}

impl CgroupDumpArgs {
    /// The library's options.
    pub(crate) fn selection(&self) -> Result<CgroupSelection, CliError> {
        let given = self.cgroup_props.iter().flat_map(|spec| &spec.0);
        let mut properties: Vec<_> = given.cloned().collect();
        for file in &self.cgroup_props_file {
            let failed = |source| CliError::CgroupProps {
                path: file.clone(),
                source,
            };
            let text = std::fs::read_to_string(file).map_err(failed)?;
            let read = CgroupProperties::parse(&text);
            properties.extend(read.map_err(|e| failed(std::io::Error::other(e)))?);
        }
        Ok(CgroupSelection {
            controllers: self.cgroup_dump_controller.clone(),
            properties,
            freeze: self.freeze_cgroup.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        cgroups: CgroupArgs,
        #[command(flatten)]
        dump: CgroupDumpArgs,
    }

    fn parse(words: &[&str]) -> Result<Line, String> {
        let words = ["icecore"].iter().chain(words);
        Line::try_parse_from(words).map_err(|e| e.to_string())
    }

    #[test]
    fn each_way_to_give_a_mode_means_what_it_says() {
        let mode = |words: &[&str]| parse(words).map(|line| line.cgroups.options().mode);
        assert_eq!(mode(&[]), Ok(CgroupMode::NotGiven));
        assert_eq!(mode(&["--manage-cgroups"]), Ok(CgroupMode::Soft));
        for (name, expected) in [
            ("ignore", CgroupMode::Ignore),
            ("none", CgroupMode::None),
            ("props", CgroupMode::Props),
            ("soft", CgroupMode::Soft),
            ("full", CgroupMode::Full),
            ("strict", CgroupMode::Strict),
        ] {
            let word = format!("--manage-cgroups={name}");
            assert_eq!(mode(&[&word]), Ok(expected));
            assert_eq!(expected.name(), Some(name));
        }
        assert!(mode(&["--manage-cgroups="]).is_err());
        assert!(mode(&["--manage-cgroups=0"]).is_err());
    }

    #[test]
    fn properties_are_given_in_words_or_in_a_file() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("props");
        std::fs::write(&file, "pids:\n - properties: [pids.max]\n")?;
        let line = parse(&[
            "--cgroup-props",
            "\"cpu\": - \"properties\": [\"cpu.shares\"]",
            "--cgroup-props-file",
            file.to_str().ok_or("path")?,
        ])?;
        let selection = line.dump.selection()?;
        let names: Vec<_> = selection.properties.iter().map(|p| &p.controller).collect();
        assert_eq!(names, ["cpu", "pids"]);
        assert!(parse(&["--cgroup-props", "cpu"]).is_err());
        Ok(())
    }
}
