//! Control groups: which there were, how they were set up, and who was where.

use serde::{Deserialize, Serialize};

use crate::bytes::ByteString;

/// What a dump or a restore was told to do about cgroups. That nothing was said
/// is a value of its own, which no explicit mode is ever taken for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupMode {
    /// The option was not given: dump records everything, restore leaves
    /// cgroups alone and says where the task stays.
    #[default]
    NotGiven,
    /// Leave cgroups alone.
    Ignore,
    /// Cgroups must exist and are entered.
    None,
    /// Cgroups must exist, are entered and get their properties.
    Props,
    /// Those that exist are entered, others made with their properties.
    Soft,
    /// All are entered and get their properties, missing ones are made.
    Full,
    /// All are made; none may exist.
    Strict,
}

impl CgroupMode {
    /// Its name on the command line; `None` where nothing was said.
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            CgroupMode::NotGiven => return None,
            CgroupMode::Ignore => "ignore",
            CgroupMode::None => "none",
            CgroupMode::Props => "props",
            CgroupMode::Soft => "soft",
            CgroupMode::Full => "full",
            CgroupMode::Strict => "strict",
        })
    }

    /// What a dump in this mode records.
    pub fn records(self) -> CgroupRecords {
        match self {
            CgroupMode::Ignore => CgroupRecords::Nothing,
            CgroupMode::None => CgroupRecords::Membership,
            CgroupMode::Props => CgroupRecords::Properties,
            CgroupMode::NotGiven | CgroupMode::Soft | CgroupMode::Full | CgroupMode::Strict => {
                CgroupRecords::All
            }
        }
    }

    /// Whether a restore in this mode touches cgroups.
    pub fn acts(self) -> bool {
        !matches!(self, CgroupMode::NotGiven | CgroupMode::Ignore)
    }

    /// Whether a restore makes cgroups that are missing.
    pub fn creates(self) -> bool {
        matches!(
            self,
            CgroupMode::Soft | CgroupMode::Full | CgroupMode::Strict
        )
    }

    /// Whether a restore sets properties of cgroups that it has not made.
    pub fn sets_existing(self) -> bool {
        matches!(self, CgroupMode::Props | CgroupMode::Full)
    }
}

/// How much an image holds, each more than the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupRecords {
    /// Nothing.
    #[default]
    Nothing,
    /// Who was where.
    Membership,
    /// And the properties of those cgroups.
    Properties,
    /// And all cgroups below, with owners and permissions.
    All,
}

/// Everything about cgroups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupsState {
    /// What the dump was told.
    pub mode: CgroupMode,
    /// What it has recorded; less than its mode says where a hierarchy could
    /// not be read.
    pub records: CgroupRecords,
    /// The hierarchies the tasks were in.
    pub hierarchies: Vec<CgroupHierarchy>,
    /// Places that threads were in.
    pub sets: Vec<CgroupSet>,
    /// Cgroup namespaces other than that of the dump.
    pub namespaces: Vec<CgroupNamespace>,
}

/// One hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupHierarchy {
    /// Which kind it is.
    pub version: CgroupVersion,
    /// Its controllers; of a named one without any `name=NAME`.
    pub controllers: Vec<String>,
    /// The cgroup all others here are in or below: what `--cgroup-root`
    /// replaces.
    pub root: ByteString,
    /// Cgroups recorded, by path, parents before children. The root of the
    /// hierarchy itself is never among them.
    pub cgroups: Vec<Cgroup>,
}

/// Version of a hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupVersion {
    /// One of any number.
    V1,
    /// The unified one.
    V2,
}

/// A cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Relative to the cgroup namespace of the dump.
    pub path: ByteString,
    /// Of its directory.
    pub attributes: CgroupAttributes,
    /// `cgroup.type`, in version 2.
    pub kind: Option<CgroupKind>,
    /// Whether it was frozen, by itself or one above.
    pub frozen: bool,
    /// Properties, by name.
    pub properties: Vec<CgroupProperty>,
    /// Files that hold members, by which rights are delegated.
    pub files: Vec<CgroupFile>,
}

/// Owner and permissions of a directory or file of a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupAttributes {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// What a cgroup of version 2 holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupKind {
    /// Processes.
    Domain,
    /// Processes, whose threads may be in cgroups below.
    DomainThreaded,
    /// Nothing, until it is made threaded.
    DomainInvalid,
    /// Threads.
    Threaded,
}

/// A file of a cgroup that says how it is set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupProperty {
    /// Its name.
    pub name: String,
    /// Its contents, without the last newline.
    pub value: ByteString,
    /// Owner and permissions.
    pub attributes: CgroupAttributes,
}

/// A file of a cgroup whose contents are not recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupFile {
    /// Its name.
    pub name: String,
    /// Owner and permissions.
    pub attributes: CgroupAttributes,
}

/// Where a thread was: one path for each hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupSet {
    /// By hierarchy, relative to the cgroup namespace of the dump.
    pub paths: Vec<ByteString>,
    /// Index of its cgroup namespace, where that is not the dump's.
    pub namespace: Option<u32>,
}

/// A cgroup namespace: what its members see as `/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupNamespace {
    /// By hierarchy, relative to the cgroup namespace of the dump.
    pub roots: Vec<ByteString>,
}

/// Files that hold members.
pub const MEMBER_FILES: [&str; 4] = ["cgroup.procs", "cgroup.threads", "tasks", "cgroup.kill"];

/// Whether `name` may be a property: a file of one of `controllers`, or of the
/// cgroup itself, that changes nothing but the cgroup when it is written.
/// Members, orders (`cgroup.kill`, `memory.reclaim`) and the program that the
/// kernel runs for an empty cgroup (`release_agent`) are none.
pub fn is_property(name: &str, controllers: &[String]) -> bool {
    const OTHERS: [&str; 4] = [
        "cgroup.event_control",
        "memory.reclaim",
        "memory.force_empty",
        "cgroup.sane_behavior",
    ];
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(plain) {
        return false;
    }
    if MEMBER_FILES.contains(&name) || OTHERS.contains(&name) {
        return false;
    }
    match name.split_once('.') {
        Some(("cgroup", _)) => true,
        Some((controller, rest)) => {
            !rest.is_empty() && controllers.iter().any(|known| known == controller)
        }
        None => name == "notify_on_release",
    }
}

/// Whether `path` is that of a cgroup: absolute, without empty, `.` or `..`
/// components, each a name the kernel takes.
pub fn is_cgroup_path(path: &[u8]) -> bool {
    let component = |name: &[u8]| {
        !name.is_empty()
            && name.len() <= 255
            && name != b"."
            && name != b".."
            && !name.contains(&0)
            && !name.contains(&b'\n')
    };
    match path {
        b"/" => true,
        [b'/', rest @ ..] => path.len() < 4096 && rest.split(|&b| b == b'/').all(component),
        _ => false,
    }
}

/// What follows `root` in `path`: empty, or with a slash at its beginning;
/// `None` where `path` is not in or below `root`.
pub fn below<'a>(path: &'a [u8], root: &[u8]) -> Option<&'a [u8]> {
    let root = root.strip_suffix(b"/").unwrap_or(root);
    match path.strip_prefix(root)? {
        b"/" if root.is_empty() => Some(b""),
        rest if rest.is_empty() || rest[0] == b'/' => Some(rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_do_not_lead_out() {
        for good in [&b"/"[..], b"/a", b"/a/b c", b"/..a/b.."] {
            assert!(is_cgroup_path(good), "{good:?}");
        }
        for bad in [
            &b""[..],
            b"a",
            b"/a/",
            b"//a",
            b"/a/../b",
            b"/.",
            b"/a\nb",
            b"/a\0",
        ] {
            assert!(!is_cgroup_path(bad), "{bad:?}");
        }
    }

    #[test]
    fn properties_belong_to_a_controller() {
        let memory = ["memory".to_owned()];
        for good in [
            "memory.max",
            "cgroup.freeze",
            "notify_on_release",
            "memory.memsw.limit",
        ] {
            assert!(is_property(good, &memory), "{good}");
        }
        for bad in [
            "pids.max",
            "tasks",
            "cgroup.procs",
            "cgroup.kill",
            "release_agent",
            "memory",
            "../memory.max",
            "memory./x",
            "memory.reclaim",
            "",
        ] {
            assert!(!is_property(bad, &memory), "{bad}");
        }
    }

    #[test]
    fn what_is_below_begins_with_a_slash() {
        assert_eq!(below(b"/a/b", b"/a"), Some(&b"/b"[..]));
        assert_eq!(below(b"/a", b"/a"), Some(&b""[..]));
        assert_eq!(below(b"/ab", b"/a"), None);
        assert_eq!(below(b"/a", b"/"), Some(&b"/a"[..]));
        assert_eq!(below(b"/", b"/"), Some(&b""[..]));
    }
}
