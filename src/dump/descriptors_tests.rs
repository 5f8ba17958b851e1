//! Descriptors of a child of ours, described while it is frozen.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use icecore_images::files::{FileKind, OpenFile};
use icecore_images::ids::DescriptionId;

use super::super::kin::Sharing;
use super::super::members::Members;
use super::super::{DumpContext, Tables};
use super::collect;
use crate::options::DumpOptions;
use crate::tracer::Frozen;

/// A Python program that prints a line when it is ready.
struct Program(Child);

impl Program {
    fn start(code: &str) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", &format!("{PRELUDE}\n{code}\n{READY}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        // It has yet to let go of that pipe.
        let stdout = format!("/proc/{}/fd/1", child.id());
        while std::fs::read_link(&stdout).is_ok_and(|to| to != Path::new("/dev/null")) {
            std::thread::yield_now();
        }
        Self(child)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const PRELUDE: &str = "import os, sys, time, fcntl, ctypes, select, socket, struct, tempfile\n\
    libc = ctypes.CDLL(None, use_errno=True); os.closerange(3, 1000)";
const READY: &str = "os.write(1, b'ready\\n'); os.dup2(0, 1); time.sleep(1000)";

struct Found {
    tables: Tables,
    blockers: Vec<String>,
}

impl Found {
    fn at(&self, fd: u32) -> &OpenFile {
        let entries = &self.tables.fd_tables[0].entries;
        let entry = entries.iter().find(|e| e.fd == fd).unwrap();
        self.file(entry.description)
    }

    fn file(&self, id: DescriptionId) -> &OpenFile {
        self.tables.files.iter().find(|f| f.id == id).unwrap()
    }
}

fn describe(code: &str) -> Found {
    let program = Program::start(code);
    let pid = program.0.id();
    let options = DumpOptions::new(pid, "/nowhere");
    let frozen = Frozen::freeze(pid, Duration::from_secs(10)).unwrap();
    let mut ctx = DumpContext::new(&options);
    ctx.frozen_since = Some(frozen.since);
    ctx.members = Members::of(&frozen);
    let sharing = Sharing::of(&frozen.tasks).unwrap();
    collect(&mut ctx, &frozen.tasks, &sharing).unwrap();
    Found {
        blockers: ctx.blockers.iter().map(|b| b.problem.clone()).collect(),
        tables: ctx.tables,
    }
}

#[test]
fn duplicates_are_one_description_and_second_opens_are_not() {
    let found = describe(
        "fd = os.open('/dev/null', os.O_RDWR)\n\
         os.dup2(fd, 50); os.dup2(os.open('/dev/null', os.O_RDWR), 51)",
    );
    assert_eq!(found.blockers, [""; 0]);
    assert_eq!(found.at(3).id, found.at(50).id);
    assert_ne!(found.at(3).id, found.at(51).id);
    assert_eq!(found.at(0).id, found.at(1).id);
}

#[test]
fn an_epoll_target_behind_a_reused_number_is_found() {
    let found = describe(
        "a = os.eventfd(7, 0); os.dup2(a, 40); os.dup2(a, 41)\n\
         e = select.epoll(); e.register(40, 5); os.dup2(os.eventfd(9, 0), 40)",
    );
    assert_eq!(found.blockers, [""; 0]);
    let FileKind::Epoll(epoll) = &found.at(5 - 1).kind else {
        panic!("{:?}", found.at(4))
    };
    let [target] = epoll.targets[..] else {
        panic!()
    };
    assert_eq!(target.fd, 40);
    let FileKind::EventFd(watched) = found.file(target.description).kind else {
        panic!()
    };
    assert_eq!(watched.count, 7);
}

#[test]
fn everything_that_is_not_carried_is_named_at_once() {
    let found = describe(
        "s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); m, t = os.openpty()\n\
         os.open('/proc/1/status', 0); f = open(tempfile.mktemp(), 'w'); fcntl.fcntl(f, 1024, 1)\n\
         os.unlink(f.name)\n\
         os.pidfd_open(1)",
    );
    let all = found.blockers.join("\n");
    for what in [
        "netlink",
        "terminal",
        "/proc/1/status",
        "has a lease",
        "pidfd of pid 1",
    ] {
        assert!(all.contains(what), "{what}:\n{all}");
    }
    assert_eq!(found.blockers.len(), 6, "{all}");
}

#[test]
fn a_pipe_held_outside_is_refused_with_its_holder() {
    // The holder is no child: it was handed on to whoever reaps here.
    let found = describe(
        "r, w = os.pipe()\nif os.fork() == 0:\n if os.fork() == 0: time.sleep(3)\n os._exit(0)\n\
         os.wait()",
    );
    let holder = "it is also held by pid ";
    let said = found.blockers.iter().filter(|b| b.contains(holder));
    assert_eq!(said.count(), 1, "{:?}", found.blockers);
}

#[test]
fn what_a_child_has_inherited_is_described_once() {
    let found = describe(
        "r, w = os.pipe(); n = os.open('/dev/null', 0)\n\
         if os.fork() == 0: os.dup2(0, 1); os.dup2(os.open('/dev/null', 0), 30); time.sleep(1000)\n\
         while not os.path.exists('/proc/%d/fd/30' % int(open('/proc/self/task/%d/children' % \
         os.getpid()).read())): pass",
    );
    assert_eq!(found.blockers, [""; 0]);
    let [parent, child] = &found.tables.fd_tables[..] else {
        panic!("{:?}", found.tables.fd_tables)
    };
    let of = |table: &icecore_images::files::FdTable, fd: u32| {
        table
            .entries
            .iter()
            .find(|e| e.fd == fd)
            .unwrap()
            .description
    };
    for fd in 3..=5 {
        assert_eq!(of(parent, fd), of(child, fd));
    }
    assert!(
        parent
            .entries
            .iter()
            .all(|e| e.description != of(child, 30))
    );
    assert_eq!(found.tables.pipes.len(), 1);
    let ids: Vec<u32> = found.tables.files.iter().map(|f| f.id.0).collect();
    assert!(
        ids.iter().enumerate().all(|(i, id)| *id == i as u32),
        "{ids:?}"
    );
}

#[test]
fn names_that_look_deleted_and_names_that_are() {
    let found = describe(
        "d = tempfile.mkdtemp(); os.chdir(d)\n\
         a = os.open('x (deleted)', os.O_CREAT|os.O_RDWR)\n\
         b = os.open(b'new\\nline\\xff', os.O_CREAT|os.O_RDWR)\n\
         c = os.open('moved', os.O_CREAT|os.O_RDWR); os.rename('moved', 'here')\n\
         e = os.open('linked', os.O_CREAT|os.O_RDWR); os.link('linked', 'other'); os.unlink('linked')\n\
         f = os.open('gone', os.O_CREAT|os.O_RDWR); os.write(f, b'abc'); os.unlink('gone')\n\
         g = os.open('far', os.O_CREAT|os.O_RDWR); os.mkdir('s'); os.link('far', 's/away'); os.unlink('far')",
    );
    let name = |fd| match &found.at(fd).kind {
        FileKind::Regular(file) => {
            let name = file.path.0.rsplit(|&b| b == b'/').next().unwrap();
            (name.to_vec(), file.ghost.is_some())
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(name(3), (b"x (deleted)".to_vec(), false));
    assert_eq!(name(4), (b"new\nline\xff".to_vec(), false));
    assert_eq!(name(5), (b"here".to_vec(), false));
    assert_eq!(name(6), (b"other".to_vec(), false));
    assert_eq!(name(7), (b"gone".to_vec(), true));
    assert_eq!(found.blockers.len(), 1);
    assert!(
        found.blockers[0].contains("other name"),
        "{}",
        found.blockers[0]
    );
}

#[test]
fn inotify_watches_are_found_by_path() {
    let found = describe(
        "d = tempfile.mkdtemp().encode(); i = libc.inotify_init1(0)\n\
         assert libc.inotify_add_watch(i, d, 0x300) == 1",
    );
    assert_eq!(found.blockers, [""; 0]);
    let FileKind::Inotify(state) = &found.at(3).kind else {
        panic!()
    };
    assert_eq!(state.watches[0].mask, 0x300);
    assert!(state.watches[0].file.path.0.starts_with(b"/tmp/"));
}
