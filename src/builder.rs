//! Dumps and restores as a program writes them down: what is wanted, step by
//! step, then [`run`](Dump::run).

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::blocker::Blocker;
use crate::error::{DumpError, RestoreError};
use crate::observer::{Cancel, Observer};
use crate::options::{
    After, CgroupMode, CgroupProperties, CgroupRoot, DumpOptions, Inherited, PidPolicy,
    RestoreOptions, TcpPolicy,
};
use crate::outside::OutsideRule;
use crate::stats::{self, DUMP_STATS, DumpReport, RESTORE_STATS, RestoreReport};

/// Steps that each set one option.
macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, $name: $type) -> Self {
            self.options.$name = $name;
            self
        }
    )*};
}

/// A dump, to be configured and run.
#[derive(Debug, Clone)]
pub struct Dump {
    options: DumpOptions,
}

impl Dump {
    /// A dump of process `pid` into `images_dir`, which ends the process once
    /// its image is complete on disk.
    pub fn new(pid: u32, images_dir: impl Into<PathBuf>) -> Self {
        DumpOptions::new(pid, images_dir).into()
    }

    /// Whether the process goes on afterwards (`-R`).
    pub fn leave_running(self, yes: bool) -> Self {
        self.after(if yes { After::Run } else { After::Kill })
    }

    settings! {
        /// What becomes of the process afterwards.
        after: After;
        /// Time limit for freezing.
        timeout: Duration;
        /// Largest content of a deleted file that is carried, bytes.
        ghost_limit: u64;
        /// Whether its session and process group may be led from outside (`-j`).
        shell_job: bool;
        /// Injects although a seccomp filter could kill the process.
        risk_seccomp: bool;
    }

    /// Adds a rule for connections to the outside; the last that matches holds.
    /// Where none does, the dump is refused.
    pub fn outside(mut self, rule: OutsideRule) -> Self {
        self.options.outside.push(rule);
        self
    }

    /// What becomes of TCP connections to the outside that no rule is for
    /// (`--tcp-established`, `--tcp-close`).
    pub fn tcp(mut self, policy: TcpPolicy) -> Self {
        self.options.tcp = policy;
        self
    }

    /// How long a keeper waits for a restore (`--keep-for`). Given where the
    /// process goes on, there is a keeper nevertheless.
    pub fn keep_for(mut self, limit: Duration) -> Self {
        self.options.keep_for = Some(limit);
        self
    }

    /// What is recorded of cgroups. Not called, everything is, and a restore
    /// may use it or not.
    pub fn manage_cgroups(mut self, mode: CgroupMode) -> Self {
        self.options.cgroups.mode = mode;
        self
    }

    /// Records cgroups from here on, rather than those with tasks of the dump
    /// in them and what is below. May be called several times.
    pub fn cgroup_root(mut self, root: CgroupRoot) -> Self {
        self.options.cgroups.roots.push(root);
        self
    }

    /// Where hierarchies of cgroups are found: a directory with one for each.
    pub fn cgroup_yard(mut self, dir: impl Into<PathBuf>) -> Self {
        self.options.cgroups.yard = Some(dir.into());
        self
    }

    /// Records hierarchies of this controller and of others named so only. May
    /// be called several times.
    pub fn cgroup_dump_controller(mut self, controller: impl Into<String>) -> Self {
        let selection = &mut self.options.cgroup_selection;
        selection.controllers.push(controller.into());
        self
    }

    /// Which properties of a controller are recorded. May be called several
    /// times.
    pub fn cgroup_properties(mut self, properties: CgroupProperties) -> Self {
        let selection = &mut self.options.cgroup_selection;
        selection.properties.push(properties);
        self
    }

    /// Brings the process to a standstill by the cgroup of this directory
    /// before it is traced; the cgroup is thawed again whatever happens.
    pub fn freeze_cgroup(mut self, dir: impl Into<PathBuf>) -> Self {
        self.options.cgroup_selection.freeze = Some(dir.into());
        self
    }

    /// Lets the process go on as soon as it has made a copy of itself, from which
    /// its pages are read (with [`leave_running`](Self::leave_running) only).
    pub fn live(mut self, yes: bool) -> Self {
        self.options.live = yes;
        self
    }

    /// Number of threads that copy pages.
    pub fn threads(mut self, threads: usize) -> Self {
        self.options.threads = Some(threads);
        self
    }

    settings! {
        /// Who is told of stages and progress.
        observer: Arc<dyn Observer>;
        /// A way to end the dump early, the process unharmed.
        cancel: Cancel;
    }

    /// Puts the process to sleep. Whatever goes wrong, it goes on as if
    /// nothing had happened.
    ///
    /// # Errors
    /// [`DumpError::Blocked`] with everything that cannot be carried over;
    /// other variants for what went wrong.
    pub fn run(&self) -> Result<DumpReport, DumpError> {
        let mut report = crate::dump::run(&self.options)?;
        let written = stats::write(&self.options.images_dir, DUMP_STATS, &report.stats);
        report.notes.extend(written.err());
        Ok(report)
    }
}

/// What would stand in the way of a dump, told without one.
#[derive(Debug, Clone)]
pub struct Check {
    options: DumpOptions,
}

impl Check {
    /// A check of process `pid`.
    pub fn new(pid: u32) -> Self {
        DumpOptions::new(pid, PathBuf::new()).into()
    }

    /// Looks at the process, which stands still for a moment.
    ///
    /// # Errors
    /// Like [`Dump::run`]'s, but blockers are what is returned.
    pub fn run(&self) -> Result<Vec<Blocker>, DumpError> {
        crate::dump::blockers(&self.options)
    }
}

impl From<DumpOptions> for Check {
    fn from(options: DumpOptions) -> Self {
        Self { options }
    }
}

impl From<DumpOptions> for Dump {
    fn from(options: DumpOptions) -> Self {
        Self { options }
    }
}

/// A restore, to be configured and run.
#[derive(Debug, Clone)]
pub struct Restore {
    options: RestoreOptions,
}

impl Restore {
    /// A restore of the image in `images_dir` as a child of this process.
    pub fn new(images_dir: impl Into<PathBuf>) -> Self {
        RestoreOptions::new(images_dir).into()
    }

    settings! {
        /// Whether the process is on its own afterwards (`-d`).
        detached: bool;
        /// Whether it becomes a child of this process' parent (`-S`).
        sibling: bool;
        /// Whether it is left stopped (`-s`).
        leave_stopped: bool;
        /// Whether a process whose session was led from outside joins ours (`-j`).
        shell_job: bool;
        /// Which pids it gets.
        pids: PidPolicy;
        /// Whether CLOCK_MONOTONIC and CLOCK_BOOTTIME go on from the dump (the
        /// default) or are those of this host.
        clock_from_dump: bool;
        /// Whether only obstacles are looked for.
        dry_run: bool;
    }

    /// Adds a rule for connections to the outside, which goes before what the
    /// dump has said.
    pub fn outside(mut self, rule: OutsideRule) -> Self {
        self.options.outside.push(rule);
        self
    }

    /// What becomes of cgroups. Not called, the process stays in those of this
    /// process, which the report says where it was in others.
    pub fn manage_cgroups(mut self, mode: CgroupMode) -> Self {
        self.options.cgroups.mode = mode;
        self
    }

    /// Puts what was in or below the root of the dump in or below this cgroup.
    /// May be called several times, for different controllers.
    pub fn cgroup_root(mut self, root: CgroupRoot) -> Self {
        self.options.cgroups.roots.push(root);
        self
    }

    /// Where hierarchies of cgroups are found: a directory with one for each.
    pub fn cgroup_yard(mut self, dir: impl Into<PathBuf>) -> Self {
        self.options.cgroups.yard = Some(dir.into());
        self
    }

    /// Gives the process a descriptor of the caller's instead of the one of its
    /// own that `key` names (see [`Inherited`]).
    pub fn inherit(mut self, key: impl Into<String>, fd: OwnedFd) -> Self {
        let (key, fd) = (key.into(), Arc::new(fd));
        self.options.inherit.push(Inherited { key, fd });
        self
    }

    /// Number of threads that fill pages.
    pub fn threads(mut self, threads: usize) -> Self {
        self.options.threads = Some(threads);
        self
    }

    settings! {
        /// Who is told of stages and progress.
        observer: Arc<dyn Observer>;
        /// A way to end the restore early, with nothing left behind.
        cancel: Cancel;
    }

    /// Wakes the process up; returns once it runs. Whatever goes wrong, nothing
    /// is left behind.
    ///
    /// # Errors
    /// [`RestoreError::Obstacles`] with everything that is in the way; other
    /// variants for what went wrong.
    pub fn run(&self) -> Result<RestoreReport, RestoreError> {
        let mut report = crate::restore::run(&self.options)?;
        if !self.options.dry_run {
            let written = stats::write(&self.options.images_dir, RESTORE_STATS, &report.stats);
            report.notes.extend(written.err());
        }
        Ok(report)
    }
}

impl From<RestoreOptions> for Restore {
    fn from(options: RestoreOptions) -> Self {
        Self { options }
    }
}
