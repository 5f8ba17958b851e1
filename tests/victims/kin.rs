//! Trees that are dumped while they go on, and what a task may be bound to
//! that cannot be carried: each refused by name, with no harm to it.

use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::harness::{Mode, Stage, Victim};
use crate::sys::{at, call, same, to};

pub(crate) fn victims() -> Vec<Victim> {
    let refused = [
        Victim::new("kin-child", child).only(&[Mode::Running, Mode::Failed]),
        Victim::new("kin-tree", tree).only(&[Mode::Running, Mode::Failed]),
        Victim::new("kin-zombie", zombie).only(&[Mode::Running, Mode::Failed]),
        Victim::new("kin-memory", shared_memory).only(&[Mode::Running, Mode::Failed]),
        Victim::new("kin-memory-waits", waits).only(&[Mode::Running]),
        Victim::refused(
            "kin-memory-outside",
            "it shares memory, working directory and root with pid",
            shared_with_sibling,
        ),
        Victim::refused("kin-traced", "is already traced by pid", traced),
        Victim::refused("kin-strict", "it is in seccomp's strict mode", strict),
        Victim::refused(
            "kin-namespaces",
            "other namespaces than icecore: net, uts",
            namespaces,
        ),
        Victim::refused("kin-keyring", "process keyring", keyring),
        Victim::refused("kin-ldt", "LDT", ldt),
        Victim::refused("kin-ports", "I/O ports", ports).needs(has_ioperm),
        Victim::refused("kin-semaphore", "System V semaphore set", semaphore),
        Victim::refused("kin-clock", "which is outside the dump", clock),
    ];
    refused.into()
}

fn wait(stage: &mut Stage) -> Result<(), String> {
    while stage.next()? {}
    Ok(())
}

fn sleeper() -> Result<Child, String> {
    Command::new("sleep")
        .arg("300")
        .spawn()
        .map_err(|e| e.to_string())
}

fn child(stage: &mut Stage) -> Result<(), String> {
    let mut child = sleeper()?;
    let waited = wait(stage);
    child
        .kill()
        .and_then(|()| child.wait())
        .map_err(|e| e.to_string())?;
    waited
}

/// A shell with a pipeline, a job of its own that is stopped, and a child of a
/// child.
fn tree(stage: &mut Stage) -> Result<(), String> {
    const SCRIPT: &str = "sleep 300 | sleep 300 & setsid sh -c 'sleep 300; :' & \
         sleep 300 & kill -STOP $!; wait";
    let shell = Command::new("sh").args(["-c", SCRIPT]).spawn();
    let mut shell = shell.map_err(|e| e.to_string())?;
    let complete = |found: &[(u32, bool)]| found.len() == 5 && found.iter().any(|f| f.1);
    let mut before = below(shell.id())?;
    while !complete(&before) {
        std::thread::yield_now();
        before = below(shell.id())?;
    }
    while stage.next()? {
        let after = below(shell.id())?;
        if after != before {
            return Err(format!("{before:?} became {after:?}"));
        }
    }
    for (pid, _) in before.into_iter().rev() {
        call("kill", libc::SYS_kill, &[pid.into(), libc::SIGKILL as u64])?;
    }
    let _ = shell.kill();
    shell.wait().map_err(|e| e.to_string())?;
    Ok(())
}

/// All descendants, each with its state: stopped or not.
fn below(pid: u32) -> Result<Vec<(u32, bool)>, String> {
    let read = |path: String| std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"));
    let mut found = Vec::new();
    for child in read(format!("/proc/{pid}/task/{pid}/children"))?.split_whitespace() {
        let child: u32 = child.parse().map_err(|e| format!("{child}: {e}"))?;
        let stopped = read(format!("/proc/{child}/stat"))?.contains(") T ");
        found.push((child, stopped));
        found.extend(below(child)?);
    }
    Ok(found)
}

fn zombie(stage: &mut Stage) -> Result<(), String> {
    let mut child = sleeper()?;
    child.kill().map_err(|e| e.to_string())?;
    let pid = u64::from(child.id());
    // WEXITED | WNOWAIT: until it has ended, and left as it is.
    call("waitid", libc::SYS_waitid, &[1, pid, 0, 4 | 0x0100_0000, 0])?;
    let waited = wait(stage);
    child.wait().map_err(|e| e.to_string())?;
    waited
}

/// A process that is no thread but has our memory, as vfork makes.
fn shared_memory(stage: &mut Stage) -> Result<(), String> {
    sharing(stage, libc::CLONE_VM)
}

/// Two processes with one memory, each in a wait whose rest is kept there while
/// they are frozen: neither gets the other's.
fn waits(stage: &mut Stage) -> Result<(), String> {
    const LONG: i64 = 4;
    static STOP: AtomicBool = AtomicBool::new(false);
    /// Waits that took less than they should, or failed.
    static WRONG: AtomicU64 = AtomicU64::new(0);
    fn wait_for(time: libc::timespec) {
        let none = 0_u64;
        let start = std::time::Instant::now();
        let nr = libc::SYS_rt_sigtimedwait;
        // SAFETY: the set, of no signals, and the time are live and only read.
        let ret = unsafe { libc::syscall(nr, &raw const none, 0, &raw const time, 8) };
        let early = start.elapsed().as_nanos() + 20_000_000
            < (time.tv_sec * 1_000_000_000 + time.tv_nsec) as u128;
        if ret != -1 || early {
            WRONG.fetch_add(1, Ordering::Relaxed);
        }
    }
    extern "C" fn short(_: *mut libc::c_void) -> i32 {
        loop {
            wait_for(libc::timespec {
                tv_sec: 0,
                tv_nsec: 300_000_000,
            });
        }
    }
    let thread = std::thread::spawn(|| {
        while !STOP.load(Ordering::Relaxed) {
            wait_for(libc::timespec {
                tv_sec: LONG,
                tv_nsec: 0,
            });
        }
    });
    let pid = spawn(short, libc::CLONE_VM)?;
    while stage.next()? {}
    STOP.store(true, Ordering::Relaxed);
    let joined = thread.join();
    end(pid)?;
    joined.map_err(|_| "the thread panicked".to_owned())?;
    same("waits that went wrong", &WRONG.load(Ordering::Relaxed), &0)
}

/// The same as a child of our parent, which is outside the dump.
fn shared_with_sibling(stage: &mut Stage) -> Result<(), String> {
    sharing(stage, libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_PARENT)
}

fn sharing(stage: &mut Stage, flags: i32) -> Result<(), String> {
    extern "C" fn pause(_: *mut libc::c_void) -> i32 {
        loop {
            // SAFETY: takes nothing and touches no memory.
            unsafe { libc::pause() };
        }
    }
    let pid = spawn(pause, flags)?;
    let waited = wait(stage);
    match flags & libc::CLONE_PARENT {
        0 => end(pid)?,
        _ => drop(call("kill", libc::SYS_kill, &[pid, libc::SIGKILL as u64])?),
    }
    waited
}

/// A process that does `what` with our memory.
fn spawn(what: extern "C" fn(*mut libc::c_void) -> i32, flags: i32) -> Result<u64, String> {
    let stack = Box::leak(vec![0_u8; 64 << 10].into_boxed_slice());
    let top = stack.as_mut_ptr_range().end.cast();
    // SAFETY: the stack is nobody else's for ever, and what runs there makes
    // system calls and counts, nothing else.
    let pid = unsafe { libc::clone(what, top, flags, std::ptr::null_mut()) };
    match pid {
        -1 => Err(format!("clone: {}", std::io::Error::last_os_error())),
        pid => Ok(pid as u64),
    }
}

/// Ends a child that sends no signal when it ends.
fn end(pid: u64) -> Result<(), String> {
    const WALL: u64 = 0x4000_0000;
    call("kill", libc::SYS_kill, &[pid, libc::SIGKILL as u64])?;
    call("wait4", libc::SYS_wait4, &[pid, 0, WALL, 0])?;
    Ok(())
}

/// A child of a child of ours may only read and write: nothing can be run in
/// it, and everyone else has been frozen by then.
fn strict(stage: &mut Stage) -> Result<(), String> {
    const CODE: &str = "import ctypes, os, time\n\
        if os.fork() == 0:\n    \
            r, w = os.pipe()\n    \
            libc = ctypes.CDLL(None); libc.prctl(1, 9); b = ctypes.create_string_buffer(1)\n    \
            os.close(os.open('strict', os.O_CREAT))\n    \
            libc.prctl(22, 1); libc.read(r, b, 1)\n\
        time.sleep(300)";
    let mut python = Command::new("python3");
    with_child(stage, python.args(["-c", CODE]), "strict")
}

/// A child that traces another.
fn traced(stage: &mut Stage) -> Result<(), String> {
    const CODE: &str = "import ctypes, os, time\n\
        libc = ctypes.CDLL(None); other = os.fork()\n\
        if other == 0: libc.prctl(1, 9); time.sleep(300)\n\
        assert libc.ptrace(0x4206, other, 0, 0) == 0\n\
        os.close(os.open('traced', os.O_CREAT)); time.sleep(300)";
    let mut python = Command::new("python3");
    with_child(stage, python.args(["-c", CODE]), "traced")
}

/// Waits with a child that makes the file `word` when it is ready.
fn with_child(stage: &mut Stage, command: &mut Command, word: &str) -> Result<(), String> {
    let mut child = command.current_dir(stage.dir()).spawn();
    let child = child.as_mut().map_err(|e| e.to_string())?;
    while !stage.dir().join(word).exists() {
        std::thread::yield_now();
    }
    let waited = wait(stage);
    let alive = child.try_wait().map_err(|e| e.to_string())?.is_none();
    child
        .kill()
        .and_then(|()| child.wait())
        .map_err(|e| e.to_string())?;
    match alive {
        true => waited,
        false => Err("the child has ended".to_owned()),
    }
}

fn namespaces(stage: &mut Stage) -> Result<(), String> {
    let flags = (libc::CLONE_NEWNET | libc::CLONE_NEWUTS) as u64;
    call("unshare", libc::SYS_unshare, &[flags])?;
    wait(stage)
}

fn keyring(stage: &mut Stage) -> Result<(), String> {
    const PROCESS: u64 = -2_i64 as u64;
    call("keyctl", libc::SYS_keyctl, &[0, PROCESS, 1])?;
    wait(stage)
}

fn ldt(stage: &mut Stage) -> Result<(), String> {
    // struct user_desc: entry 0, base, limit, flags (32-bit data).
    let entry = [0_u32, 0x1000, 0xfff, 1];
    call("modify_ldt", libc::SYS_modify_ldt, &[1, at(&entry), 16])?;
    wait(stage)
}

/// Asks for no port at all.
fn has_ioperm() -> Result<(), String> {
    match call("ioperm", libc::SYS_ioperm, &[0, 0, 0]) {
        Err(e) if e.contains("not implemented") => Err("the kernel has no ioperm".to_owned()),
        _ => Ok(()),
    }
}

fn ports(stage: &mut Stage) -> Result<(), String> {
    call("ioperm", libc::SYS_ioperm, &[0x80, 1, 1])?;
    wait(stage)
}

fn semaphore(stage: &mut Stage) -> Result<(), String> {
    let set = call("semget", libc::SYS_semget, &[0, 1, 0o1600])?;
    // struct sembuf: semaphore 0, up by one, SEM_UNDO.
    let up = [0_u16, 1, 0x1000];
    let waited = call("semop", libc::SYS_semop, &[set, at(&up), 1]).and_then(|_| wait(stage));
    call("semctl", libc::SYS_semctl, &[set, 0, 0])?;
    waited
}

/// A timer on the CPU time of our parent.
fn clock(stage: &mut Stage) -> Result<(), String> {
    let parent = call("getppid", libc::SYS_getppid, &[])?;
    let clock = ((!(parent as i32)) << 3) | 2;
    let (mut event, mut id) = ([0_u32; 16], 0_u32);
    event[3] = 1;
    let args = [clock as i64 as u64, at(&event), to(&mut id)];
    call("timer_create", libc::SYS_timer_create, &args)?;
    wait(stage)
}
