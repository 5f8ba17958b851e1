//! Dumps of trees that go on all the while: large ones, such as share their
//! memory, and one that never holds still.

mod common;

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::icecore::Icecore;
use common::target::Target;
use icecore_images::Image;
use icecore_images::mm::MmState;
use rustix::process::Signal;

type Outcome = Result<(), Box<dyn Error>>;

/// What every program of these tests begins with: children end with their
/// parents, `ready` tells that all is set up.
const PRELUDE: &str = "import ctypes, gc, mmap, os, signal, sys, threading, time\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    def fork():\n    \
        parent = os.getpid(); pid = os.fork()\n    \
        if pid == 0:\n        \
            libc.prctl(1, 9)\n        \
            if os.getppid() != parent: os._exit(1)\n    \
        return pid\n\
    def ready(): os.mkdir('ready')\n";

/// A program and all it has started, which end with it.
struct Tree(Target);

impl Drop for Tree {
    fn drop(&mut self) {
        // It leads the process group that all of them are in.
        if let Some(group) = rustix::process::Pid::from_raw(self.0.pid().cast_signed())
            && self.0.alive().is_ok()
        {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

/// Starts a Python program in `dir` and waits until it is ready.
fn start(dir: &Path, program: &str) -> Result<Tree, Box<dyn Error>> {
    let code = format!("{PRELUDE}{program}");
    started(dir, Command::new("setsid").args(["python3", "-c", &code]))
}

fn started(dir: &Path, command: &mut Command) -> Result<Tree, Box<dyn Error>> {
    let log = fs::File::create(dir.join("log"))?;
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut tree = Tree(Target::spawn(command.stderr(log).current_dir(dir))?);
    common::wait::until("the program", common::wait::LIMIT, || {
        tree.0.alive()?;
        Ok(dir.join("ready").is_dir().then_some(()))
    })?;
    Ok(tree)
}

fn stats(images: &Path) -> Result<serde_json::Value, Box<dyn Error>> {
    Ok(serde_json::from_slice(&fs::read(
        images.join("stats.json"),
    )?)?)
}

#[test]
fn memory_that_forked_workers_share_is_stored_once() -> Outcome {
    const PAGES: u64 = 8192;
    let base = tempfile::tempdir()?;
    let dir = base.path();
    let mut tree = start(
        dir,
        "area = mmap.mmap(-1, 8192 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n\
         for i in range(8192): area[i * 4096:i * 4096 + 8] = (i + 1).to_bytes(8, 'little')\n\
         for worker in range(10):\n    \
             if fork() == 0:\n        \
                 area[worker * 4096] = 77; os.mkdir('there%d' % worker); signal.pause()\n\
         while not all(os.path.isdir('there%d' % w) for w in range(10)): time.sleep(.001)\n\
         ready(); signal.pause()",
    )?;
    let images = dir.join("image");
    tree.0.dump_running(&images, &[])?;
    let stats = stats(&images)?;
    let number = |name: &str| stats[name].as_u64().unwrap_or_default();
    assert!(number("pages_shared") >= 10 * (PAGES - 64), "{stats}");
    assert!(number("pages_written") < 2 * PAGES, "{stats}");
    // Each worker has one page of its own there, and nothing is left out.
    let image = Image::open(&images)?.checkpoint;
    let count = |mm: &MmState| mm.pages.iter().map(|e| e.count).sum::<u64>();
    let of_root = count(&image.mms[0]);
    assert_eq!(image.mms.len(), 11);
    assert!(image.mms.iter().all(|mm| count(mm).abs_diff(of_root) < 128));
    Ok(())
}

#[test]
fn a_thousand_tasks_are_dumped() -> Outcome {
    let base = tempfile::tempdir()?;
    let dir = base.path();
    let program = "for i in $(seq 32); do \
         (for j in $(seq 31); do sleep 1000 & done; mkdir there$i; wait) & done; \
         while [ $(ls -d there* | wc -l) -lt 32 ]; do sleep .1; done; mkdir ready; wait";
    let mut shell = Command::new("setsid");
    let mut tree = started(dir, shell.args(["sh", "-c", program]))?;
    let images = dir.join("image");
    // With the limit on open files that everyone has at first, or less.
    let mut few_files = Command::new("sh");
    few_files.args(["-c", "ulimit -Sn 256; exec \"$@\"", "sh"]);
    let pid = tree.0.pid().to_string();
    let dump = Icecore::by(dir, few_files, "dump").args(["-R", "-t", &pid, "-D"]);
    let dump = dump.arg(&images);
    dump.limit(Duration::from_secs(240)).succeed()?;
    tree.0.alive()?;
    println!("{}", stats(&images)?);
    let image = Image::open(&images)?.checkpoint;
    assert_eq!(image.tasks.len(), 1 + 32 + 32 * 31);
    // All have inherited the same standard output.
    let entries = image.fd_tables.iter().flat_map(|table| &table.entries);
    let outputs = entries.filter(|e| e.fd == 1).map(|e| e.description);
    assert_eq!(outputs.collect::<BTreeSet<_>>().len(), 1);
    Ok(())
}

#[test]
fn many_threads_of_many_tasks_are_dumped() -> Outcome {
    let base = tempfile::tempdir()?;
    let dir = base.path();
    let mut tree = start(
        dir,
        "threading.stack_size(65536)\n\
         def crowd():\n    \
             for _ in range(63): threading.Thread(target=signal.pause, daemon=True).start()\n\
         for i in range(63):\n    \
             if fork() == 0:\n        \
                 crowd(); os.mkdir('there%d' % i); signal.pause()\n\
         crowd()\n\
         while not all(os.path.isdir('there%d' % i) for i in range(63)): time.sleep(.01)\n\
         ready(); signal.pause()",
    )?;
    let images = dir.join("image");
    let dump = tree.0.dump_command(&images).arg("-R");
    dump.limit(Duration::from_secs(240)).succeed()?;
    tree.0.alive()?;
    println!("{}", stats(&images)?);
    let image = Image::open(&images)?.checkpoint;
    assert_eq!(image.tasks.len(), 64);
    assert!(image.tasks.iter().all(|task| task.threads.len() == 64));
    Ok(())
}

/// Forks and ends as fast as it can: children that are reaped, children of
/// children that are handed on to a subreaper within the tree, and threads.
const STORM: &str = "libc.prctl(36, 1)\n\
    count = mmap.mmap(-1, 4096)\n\
    def grow(at):\n    \
        n = int.from_bytes(count[at:at + 8], 'little') + 1; count[at:at + 8] = n.to_bytes(8, 'little')\n\
    def storm(at):\n    \
        while True:\n        \
            pid = os.fork()\n        \
            if pid == 0:\n            \
                if os.fork() == 0: os._exit(3)\n            \
                os._exit(7)\n        \
            ended, status = os.waitpid(pid, 0)\n        \
            if (ended, status) != (pid, 7 << 8): os.write(2, b'%d %d' % (ended, status)); os._exit(1)\n        \
            grow(at)\n\
    def threads(at):\n    \
        while True:\n        \
            thread = threading.Thread(target=grow, args=(at,)); thread.start(); thread.join()\n\
    workers = {}\n\
    for i, what in enumerate([storm, storm, threads]):\n    \
        pid = fork()\n    \
        if pid == 0: what(i * 8)\n    \
        workers[pid] = i\n\
    with open('count', 'w+b') as f:\n    \
        f.truncate(4096); shown = mmap.mmap(f.fileno(), 4096)\n\
    ready()\n\
    while True:\n    \
        pid, status = os.waitpid(-1, 0)\n    \
        if pid in workers or status not in (3 << 8, 7 << 8): os.write(2, b'%d' % status); os._exit(1)\n    \
        shown[0:24] = count[0:24]\n";

#[test]
fn a_tree_that_never_holds_still_comes_to_no_harm() -> Outcome {
    let base = tempfile::tempdir()?;
    let dir = base.path();
    let mut tree = start(dir, STORM)?;
    let counts = || -> Result<Vec<u64>, Box<dyn Error>> {
        let bytes = fs::read(dir.join("count"))?;
        let (words, _) = bytes[..24].as_chunks::<8>();
        Ok(words.iter().map(|w| u64::from_le_bytes(*w)).collect())
    };
    let mut dumped = 0;
    for round in 0..100 {
        let before = counts()?;
        let images = dir.join(format!("image-{round}"));
        let done = tree.0.dump_command(&images).arg("-R").run()?;
        match done.status.success() {
            true => dumped += 1,
            // What was refused says why, and is none.
            false => {
                done.expect_failure("error: ")?;
                assert!(!images.join("manifest").exists());
            }
        }
        tree.0.alive()?;
        common::wait::until("everyone to go on", common::wait::LIMIT, || {
            tree.0.alive()?;
            let now = counts().map_err(|e| e.to_string())?;
            Ok(now.iter().zip(&before).all(|(n, b)| n > b).then_some(()))
        })
        .map_err(|e| format!("{e}\n{}", common::icecore::lossy(&dir.join("log"))))?;
        let _ = fs::remove_dir_all(&images);
    }
    println!("{dumped} of 100 dumped");
    assert!(dumped >= 90, "{dumped} of 100 dumped");
    Ok(())
}

/// What a child asks to be told of, with the thread that makes it; it is ready
/// once the child has asked.
const ASKS: &str = "def child():\n    \
        if os.fork() == 0:\n        \
            libc.prctl(1, signal.SIGKILL); ready(); time.sleep(1000)\n    \
        while True: time.sleep(1000)\n\
    threading.Thread(target=child, daemon=True).start()\n";

#[test]
fn a_parent_death_signal_of_another_thread_is_said_aloud() -> Outcome {
    let base = tempfile::tempdir()?;
    let mut tree = start(base.path(), &format!("{ASKS}time.sleep(1000)\n"))?;
    let images = base.path().join("image");
    let done = tree.0.dump_command(&images).arg("-R").run()?;
    let done = done.expect_success()?;
    let said = done.stderr;
    assert!(
        said.contains("is sent when another than the first"),
        "{said}"
    );
    tree.0.alive()?;
    Ok(())
}

#[test]
fn a_parent_death_signal_that_a_restore_would_send_is_refused() -> Outcome {
    let base = tempfile::tempdir()?;
    let mut tree = start(
        base.path(),
        // exit(2) of the first thread alone.
        "def first():\n    \
             while True:\n        \
                 with open('/proc/self/stat') as f:\n            \
                     if ') Z' in f.read(): break\n        \
                 time.sleep(0.01)\n    \
             if os.fork() == 0:\n        \
                 libc.prctl(1, signal.SIGKILL); ready(); time.sleep(1000)\n    \
             time.sleep(1000)\n\
         threading.Thread(target=first).start()\n\
         libc.syscall(60, 0)\n",
    )?;
    let images = base.path().join("image");
    let done = tree.0.dump_command(&images).run()?;
    done.expect_failure("it has asked for a parent-death signal")?;
    assert!(!images.join("manifest").exists());
    tree.0.alive()?;
    Ok(())
}
