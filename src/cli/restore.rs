//! `icecore restore`.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};

use clap::{Args, ValueEnum};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::cgroup::CgroupArgs;
use super::common::Common;
use super::later;
use super::outside::{self, OutsideArgs};
use super::{CliError, signals};
use crate::builder::Restore;
use crate::observer::Cancel;
use crate::options::{Inherited, PidPolicy, RestoreOptions};

/// Wake a process up from its image
///
/// Everything that stands in the way is found and listed before anything is
/// created; a restore that fails leaves nothing behind. Without -d icecore stays
/// until the process ends, passes signals on to it and ends with its status.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  icecore restore -D /var/ice/job -d --pidfile /run/job.pid")]
pub(crate) struct RestoreArgs {
    /// Directory of the image
    #[arg(short = 'D', long, value_name = "DIR")]
    images_dir: PathBuf,

    /// Do not stay: the process runs on its own
    #[arg(short = 'd', long)]
    restore_detached: bool,

    /// Make the process a child of icecore's caller, and do not stay
    #[arg(short = 'S', long)]
    restore_sibling: bool,

    /// Leave the process stopped (SIGCONT lets it go on)
    #[arg(short = 's', long)]
    leave_stopped: bool,

    /// The process belonged to a shell: say nothing of its joining icecore's
    /// session
    #[arg(short = 'j', long)]
    shell_job: bool,

    /// No effect, for callers that know it from elsewhere: locks on files are
    /// always carried
    #[arg(short = 'l', long)]
    file_locks: bool,

    /// Write the pid of the restored process to this file; relative to the
    /// images directory
    #[arg(long, value_name = "FILE")]
    pidfile: Option<PathBuf>,

    /// Which pids the process gets
    #[arg(long, value_enum, value_name = "POLICY", default_value_t = Pids::Same)]
    pids: Pids,

    /// How memory is filled
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Pages::Eager)]
    pages: Pages,

    /// Where CLOCK_MONOTONIC and CLOCK_BOOTTIME go on from
    #[arg(long, value_enum, value_name = "WHERE", default_value_t = Clock::Dump)]
    clock: Clock,

    /// Number of threads that fill pages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,

    /// Only look for everything that stands in the way; create nothing
    #[arg(long)]
    dry_run: bool,

    /// Treat the vDSO as another kernel's
    #[arg(long, hide = true)]
    forward_vdso: bool,

    /// No effect, for callers that know it from elsewhere: the image says what
    /// becomes of TCP connections
    #[arg(long)]
    tcp_established: bool,

    #[command(flatten)]
    outside: OutsideArgs,

    /// Give the process descriptor N of this one instead of the one of its own
    /// that KEY names: `pipe:[INODE]`, `socket:[INODE]`, `tty[RDEV:DEV]`, or the path
    /// of a file
    #[arg(long, value_name = "fd[N]:KEY", value_parser = outside::inherited)]
    inherit_fd: Vec<Inherited>,

    #[command(flatten)]
    cgroups: CgroupArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pids {
    /// Those it had
    Same,
    /// Fresh ones; for processes of a single thread
    New,
    /// Those it had, in a pid namespace of its own: any number of copies side
    /// by side
    Ns,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pages {
    /// All of it before the process runs
    Eager,
    /// As the process touches it
    #[value(hide = true)]
    Lazy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Clock {
    /// From the dump, in a time namespace
    Dump,
    /// From this host, as if the process had slept
    Host,
}

impl RestoreArgs {
    /// Wakes the process up.
    pub(crate) fn run(&self, common: &Common) -> Result<ExitCode, CliError> {
        if self.pages == Pages::Lazy {
            return Err(later::not_yet("--pages lazy", "pages served on demand"));
        }
        let pidfile = self.pidfile.as_ref().map(|name| self.images_dir.join(name));
        common.can_tell(pidfile.as_deref())?;
        common.start_logging(&self.images_dir)?;
        let options = self.options(common);
        let caught = signals::cancel_on_signal(&options.cancel)?;
        let stays = !options.detached && !options.sibling;
        let report = Restore::from(options).run()?;
        let child = report
            .awaited
            .and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let child = child.filter(|_| stays);
        // To the task itself: the init of a namespace takes no signals.
        let task = report.pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(task) = task.filter(|_| stays) {
            signals::forward_to(task)?;
        }
        drop(caught);
        common.restored(&report, pidfile.as_deref())?;
        child.map_or(Ok(ExitCode::SUCCESS), wait_for)
    }

    fn options(&self, common: &Common) -> RestoreOptions {
        RestoreOptions {
            images_dir: self.images_dir.clone(),
            detached: self.restore_detached,
            sibling: self.restore_sibling,
            leave_stopped: self.leave_stopped,
            shell_job: self.shell_job,
            pids: match self.pids {
                Pids::Same => PidPolicy::Same,
                Pids::New => PidPolicy::New,
                Pids::Ns => PidPolicy::Namespace,
            },
            clock_from_dump: self.clock == Clock::Dump,
            dry_run: self.dry_run,
            forward_vdso: self.forward_vdso,
            outside: self.outside.rules(),
            inherit: self.inherit_fd.clone(),
            threads: self.threads.map(usize::from),
            cgroups: self.cgroups.options(),
            observer: common.observer(),
            cancel: Cancel::new(),
        }
    }
}

/// Stays until the restored process ends and gives its exit status: its own,
/// or 128 and the number of the signal that killed it, as shells do.
fn wait_for(pid: Pid) -> Result<ExitCode, CliError> {
    let failed = |e: rustix::io::Errno| CliError::Wait {
        pid: pid.as_raw_pid().unsigned_abs(),
        source: e.into(),
    };
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => {
                let status = ExitStatus::from_raw(status.as_raw());
                let code = status.code().or(status.signal().map(|signal| 128 + signal));
                return Ok(ExitCode::from(u8::try_from(code.unwrap_or(1)).unwrap_or(1)));
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(failed(e)),
        }
    }
}
