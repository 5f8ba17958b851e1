//! Everything that keeps descriptors from being rebuilt here, found before
//! anything is created.

use icecore_images::connection::ConnectionEnd;
use icecore_images::files::{FileKind, OpenFile};
use icecore_images::ids::DescriptionId;
use icecore_images::regular::FileRef;
use rustix::thread::CapabilitySet;

use super::doers::Doers;
use super::file_ref::Check;
use super::numbers::Numbers;
use super::{
    RestoreContext, connection, device, epoll, file_ref, fs_state, ghost, inet_plan, late, limit,
    lock, pipe, timerfd, unix,
};
use crate::blocker::Place;
use crate::kernel::fcntl::F_OWNER_PGRP;
use crate::options::PidPolicy;

/// Notes every obstacle.
pub(super) fn plan(ctx: &mut RestoreContext<'_>) {
    connection::plan(ctx);
    ghost::plan(ctx);
    for file in &ctx.image.files {
        plan_file(ctx, file);
        lock::plan(ctx, file);
    }
    for fs in &ctx.image.fs {
        file_ref::check(ctx, &fs.cwd, Check::Kind);
        file_ref::check(ctx, &fs.root, Check::Kind);
        let other = fs_state::is_other_root(&fs.root);
        need(
            ctx,
            other,
            CapabilitySet::SYS_CHROOT,
            "CAP_SYS_CHROOT",
            "its root directory",
        );
    }
    plan_pipes(ctx);
    unix::plan(ctx);
    plan_numbers(ctx);
    if ctx.options.pids == PidPolicy::New {
        plan_new_pid(ctx);
    }
}

fn plan_file(ctx: &mut RestoreContext<'_>, file: &OpenFile) {
    match &file.kind {
        FileKind::Regular(of) => plan_regular(ctx, file, of),
        FileKind::Directory(of) | FileKind::PathOnly(of) => file_ref::check(ctx, of, Check::Kind),
        FileKind::Device(state) => {
            file_ref::check(ctx, &state.file, Check::Kind);
            if std::fs::metadata(file_ref::path(&state.file)).is_ok() && !device::is_same(state) {
                let problem = "is another device now".to_owned();
                ctx.obstacle(path(&state.file), problem, None);
            }
        }
        FileKind::Inotify(state) => {
            for watch in &state.watches {
                file_ref::check(ctx, &watch.file, Check::Kind);
            }
        }
        FileKind::Proc(state) if !late::is_late(file) => {
            let found = std::fs::symlink_metadata(file_ref::as_path(&state.path));
            if let Err(e) = found {
                let place = Place::Path {
                    path: state.path.to_string(),
                };
                ctx.obstacle(place, format!("cannot be found: {e}"), None);
            }
        }
        FileKind::Inet(state) => inet_plan::plan(ctx, state),
        FileKind::TimerFd(state) => {
            let alarm = timerfd::wakes_the_machine(state);
            need(
                ctx,
                alarm,
                CapabilitySet::WAKE_ALARM,
                "CAP_WAKE_ALARM",
                "an alarm timerfd",
            );
        }
        FileKind::Epoll(state) => {
            let file_of = |id: DescriptionId| ctx.image.files.get(id.0 as usize);
            let is_late = |id| file_of(id).is_some_and(late::is_late);
            let mut late = state.targets.iter().filter(|t| is_late(t.description));
            let doers = Doers::of(ctx.image);
            let mut tables = ctx.image.fd_tables.iter();
            let table = tables.find(|table| doers.sets_up(table, file.id));
            let lost = late.any(|t| table.is_some_and(|table| epoll::is_stale(table, t)));
            if lost {
                let problem = "an epoll instance watches a pidfd under a number that means \
                               something else by now";
                ctx.obstacle(Place::Machine, problem.to_owned(), None);
            }
        }
        _ => {}
    }
}

/// A file that is only appended to may have grown: what the task writes next
/// comes after what others have written, as it would have without the dump.
fn plan_regular(ctx: &mut RestoreContext<'_>, file: &OpenFile, of: &FileRef) {
    let append = (libc::O_WRONLY | libc::O_APPEND) as u32;
    let mask = (libc::O_ACCMODE | libc::O_APPEND) as u32;
    let what = match file.flags & mask == append {
        true => Check::Prefix,
        false => Check::Contents,
    };
    file_ref::check(ctx, of, what);
}

fn plan_pipes(ctx: &mut RestoreContext<'_>) {
    let limit = std::fs::read_to_string("/proc/sys/fs/pipe-max-size").ok();
    let limit: u32 = limit.and_then(|t| t.trim().parse().ok()).unwrap_or(1 << 20);
    let may = ctx.has_capability(CapabilitySet::SYS_RESOURCE);
    let image = ctx.image;
    for state in &image.pipes {
        if connection::is_there(image, state.id) {
            continue;
        }
        if let Some(fifo) = &state.fifo {
            file_ref::check(ctx, fifo, Check::Kind);
        }
        if state.capacity > limit && !may {
            let problem = format!(
                "{} holds {} bytes, more than this machine's limit of {limit}",
                pipe::name(state),
                state.capacity
            );
            let help = "raise /proc/sys/fs/pipe-max-size, or restore with CAP_SYS_RESOURCE";
            ctx.obstacle(Place::Machine, problem, Some(help));
        }
    }
}

/// Descriptors above every limit that we could give ourselves.
fn plan_numbers(ctx: &mut RestoreContext<'_>) {
    let numbers = Numbers::of(ctx.image);
    let reachable = limit::reachable(ctx.has_capability(CapabilitySet::SYS_RESOURCE));
    // Ours lie beside the task's while they are placed.
    let needed = u64::from(numbers.highest().unwrap_or(0)) + 1;
    let held = (numbers.count() + ctx.image.files.len() + SPARE) as u64;
    if needed.max(held) > reachable {
        let problem = format!(
            "the task's descriptors need a limit of {} open files; {reachable} can be had",
            needed.max(held)
        );
        let help = "raise the hard limit (ulimit -Hn), or restore with CAP_SYS_RESOURCE";
        ctx.obstacle(Place::Machine, problem, Some(help));
    }
}

/// Descriptors icecore holds for itself.
const SPARE: usize = 64;

/// What cannot follow the task to a new pid: a process group, which keeps its
/// number, and a thread. Its own pid is told anew.
fn plan_new_pid(ctx: &mut RestoreContext<'_>) {
    let image = ctx.image;
    let own = |id: i32| {
        image
            .tasks
            .iter()
            .any(|t| i64::from(t.pid) == i64::from(id))
    };
    for file in &image.files {
        let Some(owner) = file.owner.filter(|owner| owner.id != 0) else {
            continue;
        };
        if owner.kind == F_OWNER_PGRP || !own(owner.id) {
            let problem = format!("signals of {} go to {} by its number", name(file), owner.id);
            let help = "restore with `--pids same` or `--pids ns`";
            ctx.obstacle(Place::Machine, problem, Some(help));
        }
    }
}

fn need(
    ctx: &mut RestoreContext<'_>,
    needed: bool,
    capability: CapabilitySet,
    called: &str,
    what: &str,
) {
    if needed && !ctx.has_capability(capability) {
        let problem = format!("{called} is missing: {what} needs it");
        ctx.obstacle(Place::Machine, problem, Some("run as root"));
    }
}

fn path(file: &FileRef) -> Place {
    Place::Path {
        path: file.path.to_string(),
    }
}

/// A description in a message.
pub(super) fn name(file: &OpenFile) -> String {
    match &file.kind {
        FileKind::Regular(of) | FileKind::Directory(of) | FileKind::PathOnly(of) => {
            of.path.to_string()
        }
        FileKind::Device(state) => state.file.path.to_string(),
        FileKind::Proc(state) => state.path.to_string(),
        FileKind::Pipe(end) => format!("pipe {}", end.pipe),
        FileKind::EventFd(_) => "eventfd".to_owned(),
        FileKind::Epoll(_) => "epoll".to_owned(),
        FileKind::TimerFd(_) => "timerfd".to_owned(),
        FileKind::SignalFd(_) => "signalfd".to_owned(),
        FileKind::Inotify(_) => "inotify".to_owned(),
        FileKind::MemFd(_) => "memfd".to_owned(),
        FileKind::PidFd(_) => "pidfd".to_owned(),
        FileKind::Unix(socket) => format!("socket:[{}]", socket.inode),
        FileKind::Connection(connection) => match &connection.end {
            ConnectionEnd::Unix(socket) => format!("socket:[{}]", socket.inode),
            ConnectionEnd::Pipe(id) => format!("pipe {id}"),
            ConnectionEnd::Tcp(tcp) => format!("socket:[{}]", tcp.socket.inode),
            ConnectionEnd::Tty(tty) => format!("terminal {}", tty.path),
            ConnectionEnd::File(path) => path.to_string(),
        },
        FileKind::Inet(state) => inet_plan::name(state),
    }
}
