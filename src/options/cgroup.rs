//! What a dump and a restore can be told about cgroups.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

pub use icecore_images::cgroup::CgroupMode;
use icecore_images::cgroup::{is_cgroup_path, is_property};

/// What to do about cgroups.
#[derive(Debug, Clone, Default)]
pub struct CgroupOptions {
    /// Which of them are recorded, entered, made, set up.
    pub mode: CgroupMode,
    /// Dump: record everything from these cgroups on. Restore: what was in or
    /// below the root of the dump comes in or below these.
    pub roots: Vec<CgroupRoot>,
    /// A directory with one for each hierarchy, in place of the mounts there
    /// are.
    pub yard: Option<PathBuf>,
}

/// What only a dump can be told about cgroups.
#[derive(Debug, Clone, Default)]
pub struct CgroupSelection {
    /// Only hierarchies of these controllers, if there are any.
    pub controllers: Vec<String>,
    /// Properties that are recorded.
    pub properties: Vec<CgroupProperties>,
    /// Directory of a cgroup by which the target is brought to a standstill
    /// before it is traced.
    pub freeze: Option<PathBuf>,
}

/// A cgroup as a root: `[CONTROLLER:]/PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupRoot {
    /// Of the hierarchy with this controller (`cgroup2` is the unified one);
    /// otherwise of all that have none of their own.
    pub controller: Option<String>,
    /// Its path: absolute, without `.` and `..`.
    pub path: PathBuf,
}

/// Which properties of a controller are recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupProperties {
    /// The controller.
    pub controller: String,
    /// In place of the usual ones, rather than in addition.
    pub replace: bool,
    /// Names of files.
    pub names: Vec<String>,
}

/// What was given is no cgroup, or no description of properties.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupSpecError {
    /// Not `[CONTROLLER:]/PATH`.
    #[error("{0:?} is not an absolute path of a cgroup, or CONTROLLER:/PATH")]
    Root(String),
    /// Not a description of properties.
    #[error("in a description of cgroup properties: {0}")]
    Properties(String),
}

impl CgroupRoot {
    /// The root for a hierarchy with these controllers, if there is one: its
    /// own before one for all.
    pub(crate) fn of<'a>(
        roots: &'a [CgroupRoot],
        unified: bool,
        controllers: &[String],
    ) -> Option<&'a [u8]> {
        let own = |root: &&CgroupRoot| {
            let name = root.controller.as_deref();
            name.is_some_and(|name| is_called(name, unified, controllers))
        };
        let mut latest = roots.iter().rev();
        let found = latest.clone().find(own);
        let found = found.or_else(|| latest.find(|root| root.controller.is_none()));
        found.map(|root| root.path.as_os_str().as_bytes())
    }
}

/// Whether a hierarchy is what a user calls `name`: one of its controllers, the
/// name of a named one, `cgroup2`.
pub(crate) fn is_called(name: &str, unified: bool, controllers: &[String]) -> bool {
    let plain = |known: &String| known == name || known.strip_prefix("name=") == Some(name);
    (unified && name == "cgroup2") || controllers.iter().any(plain)
}

impl FromStr for CgroupRoot {
    type Err = CgroupSpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (controller, path) = match text.split_once(':') {
            Some((name, path)) if !name.contains('/') && !name.is_empty() => (Some(name), path),
            _ => (None, text),
        };
        let path = match path {
            "/" => path,
            path => path.strip_suffix('/').unwrap_or(path),
        };
        if !is_cgroup_path(path.as_bytes()) {
            return Err(CgroupSpecError::Root(text.to_owned()));
        }
        Ok(Self {
            controller: controller.map(str::to_owned),
            path: PathBuf::from(OsStr::from_bytes(path.as_bytes())),
        })
    }
}

impl CgroupProperties {
    /// Reads a description of any number of controllers:
    ///
    /// ```text
    /// "memory":
    ///   - "strategy": "merge"
    ///   - "properties": ["memory.numa_stat", "memory.swappiness"]
    /// ```
    ///
    /// Strategy `replace` (the default) records these properties only, `merge`
    /// these and the usual ones; an empty list with `replace` none. Quotes,
    /// dashes and line breaks may be left out.
    pub fn parse(text: &str) -> Result<Vec<Self>, CgroupSpecError> {
        let mut words = Words::of(text)?;
        let mut all = Vec::new();
        while let Some(controller) = words.next() {
            let controller = name(controller)?;
            words.expect(":")?;
            all.push(Self::of_controller(controller, &mut words)?);
        }
        Ok(all)
    }

    fn of_controller(controller: String, words: &mut Words) -> Result<Self, CgroupSpecError> {
        let (mut replace, mut names) = (true, None);
        loop {
            match words.peek() {
                Some("strategy") => {
                    words.skip(1);
                    words.expect(":")?;
                    replace = match words.next().as_deref() {
                        Some("replace") => true,
                        Some("merge") => false,
                        other => return Err(unexpected("replace or merge", other)),
                    };
                }
                Some("properties") => {
                    words.skip(1);
                    words.expect(":")?;
                    names = Some(words.list()?);
                }
                _ => break,
            }
        }
        let names = names.ok_or_else(|| unexpected("properties", words.peek()))?;
        let own = [controller.clone()];
        match names.iter().find(|name| !is_property(name, &own)) {
            Some(other) => Err(CgroupSpecError::Properties(format!(
                "{other:?} is no property of {controller}"
            ))),
            None => Ok(Self {
                controller,
                replace,
                names,
            }),
        }
    }
}

fn unexpected(wanted: &str, got: Option<&str>) -> CgroupSpecError {
    let got = got.map_or("its end".to_owned(), |word| format!("{word:?}"));
    CgroupSpecError::Properties(format!("{wanted} expected, not {got}"))
}

fn name(word: String) -> Result<String, CgroupSpecError> {
    match word.as_bytes().first() {
        Some(b) if b.is_ascii_alphanumeric() => Ok(word),
        _ => Err(unexpected("a name", Some(&word))),
    }
}

/// The words of a description: names and the signs `: [ ] ,`.
struct Words {
    words: Vec<String>,
    at: usize,
}

impl Words {
    fn of(text: &str) -> Result<Self, CgroupSpecError> {
        let mut words = Vec::new();
        let mut rest = text.trim_start_matches(is_blank);
        while let Some(first) = rest.chars().next() {
            let len = match first {
                ':' | '[' | ']' | ',' => 1,
                '"' => match rest[1..].find('"') {
                    Some(end) => end + 2,
                    None => return Err(unexpected("a closing quote", None)),
                },
                '#' => rest.find('\n').unwrap_or(rest.len()),
                _ => rest
                    .find(|c: char| is_blank(c) && c != '-' || ":[],\"".contains(c))
                    .unwrap_or(rest.len()),
            };
            if first != '#' {
                words.push(rest[..len].trim_matches('"').to_owned());
            }
            rest = rest[len..].trim_start_matches(is_blank);
        }
        Ok(Self { words, at: 0 })
    }

    fn peek(&self) -> Option<&str> {
        self.words.get(self.at).map(String::as_str)
    }

    fn next(&mut self) -> Option<String> {
        let word = self.words.get(self.at).cloned();
        self.at += 1;
        word
    }

    fn skip(&mut self, n: usize) {
        self.at += n;
    }

    fn expect(&mut self, sign: &str) -> Result<(), CgroupSpecError> {
        match self.next() {
            Some(word) if word == sign => Ok(()),
            other => Err(unexpected(&format!("{sign:?}"), other.as_deref())),
        }
    }

    /// `[ a, b ]`.
    fn list(&mut self) -> Result<Vec<String>, CgroupSpecError> {
        self.expect("[")?;
        let mut names = Vec::new();
        loop {
            match self.next() {
                Some(word) if word == "]" => return Ok(names),
                Some(word) if word == "," => {}
                Some(word) => names.push(name(word)?),
                None => return Err(unexpected("\"]\"", None)),
            }
        }
    }
}

/// Blanks, and what YAML has before and around entries.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || "-{}".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_absolute_and_lead_nowhere_else() {
        let root: CgroupRoot = "memory:/a/b/".parse().unwrap();
        assert_eq!(root.controller.as_deref(), Some("memory"));
        assert_eq!(root.path, PathBuf::from("/a/b"));
        assert_eq!("/a:b".parse::<CgroupRoot>().unwrap().controller, None);
        for bad in ["a", "memory:a", "/a/../b", "", "memory:"] {
            assert!(bad.parse::<CgroupRoot>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_root_of_a_controller_comes_before_that_of_all() {
        let parse = |text: &str| text.parse::<CgroupRoot>().unwrap();
        let roots = [parse("cpu:/c"), parse("/all"), parse("systemd:/s")];
        let of = |unified, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
            CgroupRoot::of(&roots, unified, &names).map(<[u8]>::to_vec)
        };
        assert_eq!(of(false, &["cpu", "cpuacct"]), Some(b"/c".to_vec()));
        assert_eq!(of(false, &["memory"]), Some(b"/all".to_vec()));
        assert_eq!(of(false, &["name=systemd"]), Some(b"/s".to_vec()));
        assert_eq!(of(true, &["pids"]), Some(b"/all".to_vec()));
    }

    #[test]
    fn properties_are_described_in_simple_yaml() {
        let text = "\"cpu\":\n  - \"strategy\": \"replace\"\n  \
            - \"properties\": [\"cpu.shares\", \"cpu.cfs_quota_us\"]\n\
            # more\nmemory: - strategy: merge - properties: [memory.a-b]\npids: properties: []";
        let all = CgroupProperties::parse(text).unwrap();
        let shown: Vec<_> = all
            .iter()
            .map(|p| (p.controller.as_str(), p.replace, p.names.join(" ")))
            .collect();
        assert_eq!(
            shown,
            [
                ("cpu", true, "cpu.shares cpu.cfs_quota_us".to_owned()),
                ("memory", false, "memory.a-b".to_owned()),
                ("pids", true, String::new()),
            ]
        );
        for bad in [
            "cpu",
            "cpu: - properties: [memory.max]",
            "cpu: - strategy: other",
            "cpu: - strategy: merge",
            "cpu: - properties: [cpu.shares",
            "cpu: - properties: [\"cpu.shares]",
            "cgroup: - properties: [cgroup.procs]",
        ] {
            assert!(CgroupProperties::parse(bad).is_err(), "{bad}");
        }
    }
}
