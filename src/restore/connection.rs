//! Connections whose other end lies outside the dump.
//!
//! What becomes of each is settled before anything else is planned: what comes
//! back closed is from then on a description like any other of the image, a
//! pair whose other end was closed; what is kept or connected anew is there
//! already.
//!
//! What is taken back from a keeper are duplicates: it drops its own only when
//! it is told that the task runs, and takes that for granted when a restore
//! that had come so far ends without a word.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;

use icecore_images::connection::{ConnectionEnd, ConnectionPolicy, ConnectionState};
use icecore_images::files::{FileKind, OpenFile};
use icecore_images::ids::{DescriptionId, PipeId};
use icecore_images::pipe::{PipeEnd, PipeState};
use icecore_images::{Checkpoint, Image};
use rustix::fs::OFlags;

use super::{RestoreContext, descriptor_plan, inherit, pipe, tcp_outside, tty, unix, unix_name};
use crate::blocker::{Obstacle, Place};
use crate::error::RestoreError;
use crate::keeper::{Caller, Holdings};
use crate::options::RestoreOptions;
use crate::outside::{OutsideKind, OutsidePolicy};

/// What has been settled.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    keeper: Option<Caller>,
    how: BTreeMap<DescriptionId, How>,
    /// Terminals of the caller's and the settings they get.
    terminals: Vec<(OwnedFd, Vec<u8>)>,
    /// Files of sockets that were connected anew.
    made: unix_name::Made,
    obstacles: Vec<Obstacle>,
    notes: Vec<String>,
}

/// How an end comes back.
#[derive(Debug)]
enum How {
    /// From the keeper.
    Keep,
    /// Connected anew. Not there where the restore is only planned.
    Fresh(Option<OwnedFd>),
}

/// Settles what becomes of each, and rewrites the image so that it says so.
pub(super) fn settle(options: &RestoreOptions, image: &mut Image) -> Connections {
    let mut settling = Settling {
        options,
        image,
        asked: None,
        used: BTreeSet::new(),
        done: Connections::default(),
    };
    for at in 0..settling.image.checkpoint.files.len() {
        settling.settle(at);
    }
    settling.check_all_used();
    settling.done
}

struct Settling<'a> {
    options: &'a RestoreOptions,
    image: &'a mut Image,
    /// What the keeper has, or why it is of no use.
    asked: Option<Result<Vec<u32>, String>>,
    /// Descriptors of the caller's that were needed.
    used: BTreeSet<usize>,
    done: Connections,
}

impl Settling<'_> {
    fn settle(&mut self, at: usize) {
        if self.take_from_caller(at) {
            return;
        }
        let file = &self.image.checkpoint.files[at];
        let FileKind::Connection(state) = &file.kind else {
            return;
        };
        let (id, state) = (file.id, state.clone());
        let policy = self.policy(&state);
        let tries: &[Try] = match policy {
            None => &[Try::Caller],
            // The name of a terminal soon is another's.
            Some(OutsidePolicy::Auto) if matches!(state.end, ConnectionEnd::Tty(_)) => {
                &[Try::Keep, Try::Close]
            }
            Some(policy) => ways(policy),
        };
        let mut problems = Vec::new();
        for attempt in tries {
            let done = match attempt {
                Try::Keep => self.keep(id, &state),
                Try::Reconnect => self.reconnect(at, id, &state),
                Try::Close => self.close(at, id, &state),
                Try::Caller => self.of_caller(at, id, &state),
            };
            match done {
                Ok(_) if problems.is_empty() => return,
                Ok(what) => {
                    let name = self.name(at, &state);
                    let place = place(&self.image.checkpoint, id);
                    let why = problems.join("; ");
                    self.done
                        .notes
                        .push(format!("{place} ({name}) {what}: {why}"));
                    return;
                }
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() {
            problems.push("it is to be refused".to_owned());
        }
        let problem = format!("{}: {}", self.name(at, &state), problems.join("; "));
        let help = format!(
            "--outside {}=keep|reconnect|close|auto",
            self.kind(&state).0
        );
        self.done.obstacles.push(Obstacle {
            place: place(&self.image.checkpoint, id),
            problem,
            help: Some(help),
        });
    }

    /// Puts a descriptor of the caller's in place of what the image says, if
    /// there is one.
    fn take_from_caller(&mut self, at: usize) -> bool {
        let keys = inherit::keys(&self.image.checkpoint, at);
        let options = self.options;
        let given = options
            .inherit
            .iter()
            .position(|own| keys.contains(&own.key));
        let Some(given) = given else {
            return false;
        };
        self.used.insert(given);
        let file = &mut self.image.checkpoint.files[at];
        let flags = super::descriptors::open_flags(file.flags);
        match inherit::open(&options.inherit[given].fd, flags) {
            Ok(fd) => {
                file.kind = inherit::kind(file);
                self.done.how.insert(file.id, How::Fresh(Some(fd)));
            }
            Err(e) => {
                let problem = format!("the descriptor for {} is of no use: {e}", keys[0]);
                let place = place(&self.image.checkpoint, DescriptionId(at as u32));
                let help = None;
                self.done.obstacles.push(Obstacle {
                    place,
                    problem,
                    help,
                });
            }
        }
        true
    }

    /// What was given and nobody needs was meant for another image.
    fn check_all_used(&mut self) {
        for (i, own) in self.options.inherit.iter().enumerate() {
            if !self.used.contains(&i) {
                self.done.obstacles.push(Obstacle {
                    place: Place::Machine,
                    problem: format!("no descriptor of the image is {}", own.key),
                    help: Some("`icecore inspect` shows what there is".to_owned()),
                });
            }
        }
    }

    /// Kind and inode number.
    fn kind(&self, state: &ConnectionState) -> (OutsideKind, u64) {
        match &state.end {
            ConnectionEnd::Tcp(tcp) => (OutsideKind::Tcp, tcp.socket.inode),
            ConnectionEnd::Tty(_) | ConnectionEnd::File(_) => (OutsideKind::Tty, 0),
            ConnectionEnd::Unix(unix) => (OutsideKind::Unix, unix.inode),
            ConnectionEnd::Pipe(id) => (OutsideKind::Pipe, self.pipe(*id).map_or(0, |p| p.inode)),
        }
    }

    fn pipe(&self, id: PipeId) -> Option<&PipeState> {
        self.image.checkpoint.pipes.get(id.0 as usize)
    }

    /// The policy asked for now, else the dump's; `None`: the terminal of the
    /// caller.
    fn policy(&self, state: &ConnectionState) -> Option<OutsidePolicy> {
        let (kind, inode) = self.kind(state);
        let asked = self.options.outside.find(kind, inode);
        asked.or(match state.policy {
            ConnectionPolicy::Keep => Some(OutsidePolicy::Keep),
            ConnectionPolicy::Reconnect => Some(OutsidePolicy::Reconnect),
            ConnectionPolicy::Close => Some(OutsidePolicy::Close),
            ConnectionPolicy::Auto => Some(OutsidePolicy::Auto),
            ConnectionPolicy::Caller => None,
        })
    }

    /// The connection in a message.
    fn name(&self, at: usize, state: &ConnectionState) -> String {
        let pipe = match &state.end {
            ConnectionEnd::Pipe(id) => self.pipe(*id).map(pipe::name),
            _ => None,
        };
        pipe.unwrap_or_else(|| descriptor_plan::name(&self.image.checkpoint.files[at]))
    }

    fn keep(&mut self, id: DescriptionId, state: &ConnectionState) -> Result<&'static str, String> {
        if !state.kept {
            return Err("the dump gave it to no keeper".to_owned());
        }
        if self.asked.is_none() {
            self.asked = Some(self.ask());
        }
        match &self.asked {
            Some(Ok(kept)) if kept.contains(&id.0) => {
                self.done.how.insert(id, How::Keep);
                Ok("is what it was")
            }
            Some(Err(problem)) => Err(problem.clone()),
            _ => Err("its keeper does not have it".to_owned()),
        }
    }

    fn ask(&mut self) -> Result<Vec<u32>, String> {
        let connected = Caller::connect(&self.options.images_dir, self.image.id);
        let asked = connected.and_then(|caller| Ok((caller.list()?, caller)));
        let (Holdings { kept, lent_to, .. }, caller) = asked.map_err(|e| e.to_string())?;
        if let Some(pid) = lent_to {
            return Err(format!("its keeper has lent it to pid {pid}"));
        }
        self.done.keeper = Some(caller);
        Ok(kept)
    }

    fn reconnect(
        &mut self,
        at: usize,
        id: DescriptionId,
        state: &ConnectionState,
    ) -> Result<&'static str, String> {
        let flags = super::descriptors::open_flags(self.image.checkpoint.files[at].flags);
        let dry = self.options.dry_run;
        let fresh = match &state.end {
            ConnectionEnd::Unix(end) if end.peer.0.is_empty() => {
                return Err("it has no address to be connected to".to_owned());
            }
            ConnectionEnd::Unix(end) => match &end.closed {
                None => return Err("its state could not be read at the dump".to_owned()),
                Some(_) if dry => None,
                Some(state) => Some(
                    unix::connect_anew(state, &end.peer, &mut self.done.made).map_err(|e| {
                        format!("connecting to {} failed: {e}", socket_name(&end.peer.0))
                    })?,
                ),
            },
            ConnectionEnd::Pipe(pipe) => {
                let fifo = self.pipe(*pipe).and_then(|pipe| pipe.fifo.as_ref());
                let fifo = fifo.ok_or("a pipe has no address to be connected to")?;
                let path = super::file_ref::path(fifo);
                match dry {
                    true => None,
                    false => Some(
                        open_fifo(path, flags)
                            .map_err(|e| format!("opening {} failed: {e}", fifo.path))?,
                    ),
                }
            }
            ConnectionEnd::Tcp(_) | ConnectionEnd::Tty(_) if dry => None,
            ConnectionEnd::Tcp(tcp) => Some(
                tcp_outside::connect_anew(tcp)
                    .map_err(|e| format!("connecting to {} failed: {e}", tcp.peer))?,
            ),
            ConnectionEnd::Tty(tty) => Some(
                tty::reopen(tty, flags).map_err(|e| format!("opening {} failed: {e}", tty.path))?,
            ),
            ConnectionEnd::File(_) => return Err("it is given by the caller".to_owned()),
        };
        self.done.how.insert(id, How::Fresh(fresh));
        Ok("is connected anew")
    }

    fn of_caller(
        &mut self,
        at: usize,
        id: DescriptionId,
        state: &ConnectionState,
    ) -> Result<&'static str, String> {
        let flags = super::descriptors::open_flags(self.image.checkpoint.files[at].flags);
        let ConnectionEnd::Tty(tty) = &state.end else {
            return Err("it is no terminal".to_owned());
        };
        if !self.options.shell_job {
            return Err("it is to become the terminal of icecore's caller (-j)".to_owned());
        }
        let own = tty::of_caller(flags);
        let own = own.map_err(|e| format!("icecore's caller has no terminal: {e}"))?;
        if !tty.termios.0.is_empty() {
            let copy = own.try_clone().map_err(|e| e.to_string())?;
            self.done.terminals.push((copy, tty.termios.0.clone()));
        }
        self.done.how.insert(id, How::Fresh(Some(own)));
        Ok("is the terminal of icecore's caller")
    }

    /// From now on it is one whose other end was closed at the dump.
    fn close(
        &mut self,
        at: usize,
        id: DescriptionId,
        state: &ConnectionState,
    ) -> Result<&'static str, String> {
        let flags = super::descriptors::open_flags(self.image.checkpoint.files[at].flags);
        let made = match &state.end {
            ConnectionEnd::Tcp(_) | ConnectionEnd::Tty(_) if self.options.dry_run => Ok(None),
            ConnectionEnd::Tcp(tcp) => tcp_outside::closed(tcp).map(Some),
            ConnectionEnd::Tty(_) => tty::hung_up(flags).map(Some),
            _ => return self.close_in_image(at, state),
        };
        let made = made.map_err(|e| format!("closing it failed: {e}"))?;
        self.done.how.insert(id, How::Fresh(made));
        Ok("comes back closed")
    }

    fn close_in_image(
        &mut self,
        at: usize,
        state: &ConnectionState,
    ) -> Result<&'static str, String> {
        let kind = match &state.end {
            ConnectionEnd::Unix(end) => {
                let closed = end.closed.clone();
                FileKind::Unix(closed.ok_or("its state could not be read at the dump")?)
            }
            ConnectionEnd::Pipe(id) => {
                // By its name others would be met again.
                if let Some(pipe) = self.image.checkpoint.pipes.get_mut(id.0 as usize) {
                    pipe.fifo = None;
                }
                FileKind::Pipe(PipeEnd { pipe: *id })
            }
            _ => return Err("it cannot be closed".to_owned()),
        };
        self.image.checkpoint.files[at].kind = kind;
        Ok("comes back closed")
    }
}

/// A way in which a connection may come back.
#[derive(Debug, Clone, Copy)]
enum Try {
    Keep,
    Reconnect,
    Close,
    Caller,
}

fn ways(policy: OutsidePolicy) -> &'static [Try] {
    match policy {
        OutsidePolicy::Refuse => &[],
        OutsidePolicy::Keep => &[Try::Keep],
        OutsidePolicy::Reconnect => &[Try::Reconnect],
        OutsidePolicy::Close => &[Try::Close],
        OutsidePolicy::Auto => &[Try::Keep, Try::Reconnect, Try::Close],
    }
}

/// A FIFO, without waiting for somebody at its other end.
fn open_fifo(path: &std::path::Path, flags: OFlags) -> io::Result<OwnedFd> {
    use std::os::unix::fs::FileTypeExt;
    let how = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fifo = rustix::fs::open(path, how, rustix::fs::Mode::empty())?;
    let meta = std::fs::File::from(fifo.try_clone()?).metadata()?;
    match meta.file_type().is_fifo() {
        true => Ok(fifo),
        false => Err(io::Error::other("it is no FIFO any more")),
    }
}

/// A `sun_path` in a message.
fn socket_name(name: &[u8]) -> String {
    let text = |bytes: &[u8]| icecore_images::ByteString::from(bytes).to_string();
    match name {
        [0, name @ ..] => format!("@{}", text(name)),
        path => text(path),
    }
}

/// The first descriptor that means a description.
fn place(image: &Checkpoint, id: DescriptionId) -> Place {
    for task in &image.tasks {
        let table = image.fd_tables.iter().find(|t| t.id == task.fd_table);
        let mut entries = table.iter().flat_map(|t| &t.entries);
        if let Some(entry) = entries.find(|e| e.description == id) {
            let (pid, fd) = (task.pid, entry.fd);
            return Place::Fd { pid, fd };
        }
    }
    Place::Machine
}

/// Notes what was found in the way.
pub(super) fn plan(ctx: &mut RestoreContext<'_>) {
    ctx.obstacles.append(&mut ctx.connections.obstacles);
    ctx.notes.append(&mut ctx.connections.notes);
}

/// Whether a pipe is there already.
pub(super) fn is_there(image: &Checkpoint, pipe: PipeId) -> bool {
    let outside = |file: &OpenFile| match &file.kind {
        FileKind::Connection(state) => state.end == ConnectionEnd::Pipe(pipe),
        _ => false,
    };
    let closed = |file: &OpenFile| file.kind == FileKind::Pipe(PipeEnd { pipe });
    image.files.iter().any(outside) && !image.files.iter().any(closed)
}

/// What has come back, by description.
pub(super) type Taken = BTreeMap<u32, OwnedFd>;

impl Connections {
    /// What is kept, and what has been connected anew.
    pub(super) fn take(&self) -> Result<Taken, RestoreError> {
        let kept = self.how.values().any(|how| matches!(how, How::Keep));
        let mut taken = match &self.keeper {
            Some(keeper) if kept => keeper.take().map_err(failed)?,
            _ => Taken::new(),
        };
        for (id, how) in &self.how {
            if let How::Fresh(Some(fd)) = how {
                let fd = fd.try_clone().map_err(|source| RestoreError::Rebuild {
                    what: format!("open file {id}"),
                    source,
                })?;
                taken.insert(id.0, fd);
            }
        }
        Ok(taken)
    }

    /// The task is about to run: the keeper is told, and terminals become what
    /// the task expects.
    pub(super) fn ready(&self, pid: u32) -> Result<(), RestoreError> {
        for (terminal, settings) in &self.terminals {
            let set = crate::kernel::tty::set_settings(terminal, settings);
            set.map_err(|source| RestoreError::Rebuild {
                what: "the settings of the terminal".to_owned(),
                source,
            })?;
        }
        let taken = self.how.values().any(|how| matches!(how, How::Keep));
        match &self.keeper {
            Some(keeper) if taken => keeper.ready(pid).map_err(failed),
            _ => Ok(()),
        }
    }

    /// The task runs. Where the keeper cannot be told, it has gone already.
    pub(super) fn done(&mut self) {
        let taken = self.how.values().any(|how| matches!(how, How::Keep));
        if let Some(keeper) = self.keeper.take().filter(|_| taken) {
            let _ = keeper.done();
        }
        self.how.clear();
        self.terminals.clear();
        self.made.keep();
    }
}

fn failed(source: crate::keeper::KeeperError) -> RestoreError {
    RestoreError::Keeper { source }
}

/// A connection with its final flags.
pub(super) fn open(id: DescriptionId, flags: OFlags, taken: &mut Taken) -> io::Result<OwnedFd> {
    let fd = taken.remove(&id.0);
    let fd = fd.ok_or_else(|| io::Error::other("the keeper has not given it"))?;
    rustix::fs::fcntl_setfl(&fd, flags)?;
    Ok(fd)
}
