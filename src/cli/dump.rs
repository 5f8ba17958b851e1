//! `icecore dump`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::cgroup::{CgroupArgs, CgroupDumpArgs};
use super::common::Common;
use super::later::LaterDump;
use super::outside::{self, OutsideArgs};
use super::{CliError, duration, signals, size};
use crate::builder::Dump;
use crate::observer::Cancel;
use crate::options::{After, DumpOptions, TcpPolicy};
use crate::outside::{OutsideRule, OutsideRules};

/// Put a process to sleep: write it into a directory and end it
///
/// The process is ended only once its image is complete and safe on disk.
/// If anything stands in the way, all of it is listed and the process goes on
/// as if nothing had happened; so it does when icecore fails or is killed.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  icecore dump -t 4711 -D /var/ice/job\n  \
    icecore restore -D /var/ice/job -d")]
pub(crate) struct DumpArgs {
    /// The process
    #[arg(short = 't', long = "tree", value_name = "PID",
        value_parser = clap::value_parser!(u32).range(1..))]
    pid: u32,

    /// Directory for the image; made if it is not there, otherwise empty
    #[arg(short = 'D', long, value_name = "DIR")]
    images_dir: PathBuf,

    /// Let the process go on afterwards
    #[arg(short = 'R', long, conflicts_with = "leave_stopped")]
    leave_running: bool,

    /// Leave the process stopped afterwards (SIGCONT lets it go on)
    #[arg(short = 's', long)]
    leave_stopped: bool,

    /// The process belongs to a shell: say nothing of its session, which is led
    /// from outside
    #[arg(short = 'j', long)]
    shell_job: bool,

    /// No effect, for callers that know it from elsewhere: locks on files are
    /// always carried
    #[arg(short = 'l', long)]
    file_locks: bool,

    /// Largest content of a deleted file that is stored
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = size::parse)]
    ghost_limit: u64,

    /// Let the process go on at once: it makes a copy of itself, from which its
    /// memory is read. Takes memory for what it changes meanwhile
    #[arg(long, requires = "leave_running")]
    live: bool,

    /// Number of threads that copy pages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,

    /// Time limit for bringing the process to a standstill
    #[arg(long, value_name = "SECONDS", default_value = "10",
        value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,

    /// Go ahead although a seccomp filter of the process would kill it if
    /// icecore were killed at the wrong moment
    #[arg(long)]
    risk_seccomp: bool,

    #[command(flatten)]
    outside: OutsideArgs,

    /// Let TCP connections to the outside sleep, too: in between nftables drops
    /// what passes on them, so that the other end waits
    #[arg(long, conflicts_with = "tcp_close")]
    tcp_established: bool,

    /// Let TCP connections to the outside come back closed: what was received
    /// can be read, then there is an end of file; writing gives EPIPE
    #[arg(long)]
    tcp_close: bool,

    /// One unix socket whose other end lies outside the dump, by its inode
    /// number: --outside auto for it alone
    #[arg(long, value_name = "unix[INODE]", value_parser = outside::external)]
    external: Vec<OutsideRule>,

    /// How long a keeper waits for a restore, in seconds or with s, m, h, d;
    /// for ever, unless given. With -R or -s there is a keeper only if it is
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    keep_for: Option<Duration>,

    #[command(flatten)]
    cgroups: CgroupArgs,

    #[command(flatten)]
    cgroup_selection: CgroupDumpArgs,

    #[command(flatten)]
    later: LaterDump,
}

impl DumpArgs {
    /// Puts the process to sleep.
    pub(crate) fn run(&self, common: &Common) -> Result<ExitCode, CliError> {
        self.later.refuse()?;
        common.can_tell(None)?;
        common.start_logging(&self.images_dir)?;
        let options = self.options(common)?;
        let caught = signals::cancel_on_signal(&options.cancel)?;
        let report = Dump::from(options).run()?;
        drop(caught);
        common.dumped(&report)?;
        Ok(ExitCode::SUCCESS)
    }

    fn options(&self, common: &Common) -> Result<DumpOptions, CliError> {
        Ok(DumpOptions {
            pid: self.pid,
            images_dir: self.images_dir.clone(),
            after: self.after(),
            shell_job: self.shell_job,
            ghost_limit: self.ghost_limit,
            timeout: Duration::from_secs(self.timeout),
            risk_seccomp: self.risk_seccomp,
            outside: self.rules(),
            keep_for: self.keep_for,
            live: self.live,
            tcp: self.tcp(),
            threads: self.threads.map(usize::from),
            cgroups: self.cgroups.options(),
            cgroup_selection: self.cgroup_selection.selection()?,
            beside: common.files_in(&self.images_dir),
            observer: common.observer(),
            cancel: Cancel::new(),
        })
    }

    fn tcp(&self) -> TcpPolicy {
        match (self.tcp_established, self.tcp_close) {
            (true, _) => TcpPolicy::Established,
            (_, true) => TcpPolicy::Close,
            _ => TcpPolicy::Refuse,
        }
    }

    /// A socket that is named goes before its kind.
    fn rules(&self) -> OutsideRules {
        let mut rules = self.outside.rules();
        self.external.iter().for_each(|rule| rules.push(*rule));
        rules
    }

    fn after(&self) -> After {
        match (self.leave_running, self.leave_stopped) {
            (true, _) => After::Run,
            (_, true) => After::Stop,
            _ => After::Kill,
        }
    }
}
