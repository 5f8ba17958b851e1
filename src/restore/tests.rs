//! The engine by itself: programs of a few instructions, made by hand, that
//! are brought to life in a process under restore.

use std::os::fd::AsFd;
use std::time::Duration;

use icecore_images::bytes::ByteString;
use icecore_images::creds::CredsState;
use icecore_images::ids::{FdTableId, FsId, MmId, SigHandId};
use icecore_images::machine::MachineState;
use icecore_images::mm::{Backing, MmFields, MmState, Vma, VmaFlags};
use icecore_images::prctl::{MmControls, TaskControls, ThreadControls};
use icecore_images::regular::FileRef;
use icecore_images::sched::SchedState;
use icecore_images::seccomp::SeccompState;
use icecore_images::task::{CpuTime, RunState, TaskState};
use icecore_images::thread::{Interrupted, Registers, ThreadState, XState};
use icecore_images::timers::ClockState;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};
use rustix::time::{ClockId, clock_gettime};

use super::child::Child;
use super::forest::Living;
use super::resume;
use super::threads::{self, Thread};
use super::*;
use crate::kernel::clone3::{Gate, spawn_waiting};
use crate::options::PidPolicy;
use crate::tracer::Script;
use crate::tracer::remote::{Pace, Remote};

const CODE: u64 = 0x1000_0000;
const DATA: u64 = 0x2000_0000;
const PAGE: u64 = 4096;
const NO_CALL: u64 = u64::MAX;

fn thread(tid: u32, rip: u64) -> ThreadState {
    ThreadState {
        tid,
        ns_tids: vec![tid],
        comm: ByteString(b"engine".to_vec()),
        registers: Registers {
            rip,
            orig_rax: NO_CALL,
            rsp: DATA + PAGE,
            eflags: 0x202,
            cs: 0x33,
            ss: 0x2b,
            ..Registers::default()
        },
        xstate: XState {
            xcr0: 3,
            layout: Vec::new(),
            area: ByteString(vec![0; 576]),
        },
        interrupted: Interrupted::No,
        signal_mask: 0,
        pending: Vec::new(),
        alt_stack: Default::default(),
        clear_child_tid: 0,
        robust_list: Default::default(),
        rseq: None,
        syscall_user_dispatch: None,
        creds: CredsState::default(),
        seccomp: SeccompState::Off,
        sched: SchedState::default(),
        controls: ThreadControls::default(),
        cgroups: None,
    }
}

fn task(threads: Vec<ThreadState>) -> TaskState {
    let pid = threads[0].tid;
    TaskState {
        pid,
        parent: None,
        pgid: pid,
        sid: pid,
        ns_pids: vec![pid],
        run: RunState::Running,
        exit_signal: 17,
        mm: MmId(0),
        fd_table: FdTableId(0),
        fs: FsId(0),
        sig_hand: SigHandId(0),
        pending: Vec::new(),
        interval_timers: Default::default(),
        posix_timers: Vec::new(),
        rlimits: Vec::new(),
        oom_score_adj: 0,
        login_uid: u32::MAX,
        autogroup: None,
        controls: TaskControls::default(),
        cpu_time: CpuTime::default(),
        threads,
    }
}

fn area(start: u64, prot: i32) -> Vma {
    Vma {
        start,
        end: start + PAGE,
        prot: prot as u32,
        shared: false,
        backing: Backing::Anonymous,
        flags: VmaFlags::default(),
        pkey: 0,
        numa: None,
        anon_name: None,
        guards: Vec::new(),
    }
}

fn memory() -> MmState {
    MmState {
        id: MmId(0),
        fields: MmFields::default(),
        exe: FileRef {
            path: ByteString(b"/bin/true".to_vec()),
            mode: 0,
            size: 0,
            mtime_ns: 0,
            device: 0,
            inode: 0,
            build_id: None,
            ghost: None,
        },
        controls: MmControls::default(),
        vmas: vec![
            area(CODE, libc::PROT_READ | libc::PROT_EXEC),
            area(DATA, libc::PROT_READ | libc::PROT_WRITE),
        ],
        vdso: None,
        pages: Vec::new(),
    }
}

/// A process under restore whose memory holds `code` and an empty page.
fn process_with(code: &[u8]) -> Child {
    block_signals().unwrap();
    let (wait, keep) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let gate = Gate {
        wait: wait.as_fd(),
        keep: keep.as_fd(),
    };
    let pid = spawn_waiting(0, libc::SIGCHLD as u64, None, gate).unwrap();
    let mut child = Child::new(pid, Remote::seize(pid, false).unwrap()).unwrap();
    let mm = memory();
    child.move_in(&mm, 1 << 16).unwrap();
    child.unmap_all().unwrap();
    let mut script = Script::new();
    for vma in &mm.vmas {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let args = [
            vma.start,
            PAGE,
            u64::from(vma.prot),
            flags as u64,
            u64::MAX,
            0,
        ];
        script.call("map", libc::SYS_mmap as u32, args);
    }
    child.run("map", &script, Pace::Fast).unwrap();
    child.process.write("code", CODE, code).unwrap();
    child
}

fn let_go(task: &TaskState, child: Child, threads: Vec<Thread<'_>>) -> WaitStatus {
    let pid = start(task, child, threads);
    waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap().1
}

fn start(task: &TaskState, child: Child, threads: Vec<Thread<'_>>) -> Pid {
    let pid = Pid::from_raw(child.process.pid as i32).unwrap();
    let mut living = Living {
        child,
        threads,
        leader_exits: None,
        forked_with: None,
    };
    resume::finish(task, &memory(), &mut living, true).unwrap();
    let stopped = matches!(task.run, RunState::Stopped { .. });
    resume::let_one_go(living, stopped).unwrap();
    pid
}

/// An image of tasks that share everything.
pub(super) fn image_of(pids: impl Iterator<Item = u32>) -> Checkpoint {
    Checkpoint {
        machine: MachineState {
            icecore: String::new(),
            kernel: ByteString(Vec::new()),
            host: ByteString(Vec::new()),
            boot_id: ByteString(Vec::new()),
            cpu: ByteString(Vec::new()),
            xcr0: 3,
            cpu_features: Vec::new(),
            created: 0,
            command: Vec::new(),
        },
        clocks: ClockState {
            realtime_ns: 0,
            monotonic_ns: 0,
            boottime_ns: 0,
        },
        tasks: pids.map(|pid| task(vec![thread(pid, CODE)])).collect(),
        mms: Vec::new(),
        fd_tables: Vec::new(),
        fs: Vec::new(),
        sig_hands: Vec::new(),
        files: Vec::new(),
        pipes: Vec::new(),
        ghosts: Vec::new(),
        shmems: Vec::new(),
        seccomp_filters: Vec::new(),
        page_files: Vec::new(),
        cgroups: Default::default(),
    }
}

/// `mov edi, 42; mov eax, exit_group; syscall`
const EXIT_42: [u8; 12] = [0xbf, 42, 0, 0, 0, 0xb8, 231, 0, 0, 0, 0x0f, 0x05];

#[test]
fn a_process_runs_from_its_registers() {
    let child = process_with(&EXIT_42);
    let task = task(vec![thread(child.process.pid, CODE)]);
    assert_eq!(let_go(&task, child, Vec::new()).exit_status(), Some(42));
}

#[test]
fn a_process_without_a_vdso_leaves_through_its_own_code() {
    let mut child = process_with(&EXIT_42);
    let pid = child.process.pid;
    let maps = crate::kernel::maps::read_maps(pid).unwrap();
    let mut script = Script::new();
    for area in crate::kernel::vdso::areas(&maps) {
        script.call("unmap", libc::SYS_munmap as u32, [area.start, area.len()]);
    }
    child.run("unmap the vDSO", &script, Pace::Fast).unwrap();
    let task = task(vec![thread(pid, CODE)]);
    assert_eq!(let_go(&task, child, Vec::new()).exit_status(), Some(42));
}

#[test]
fn nothing_is_left_of_a_dropped_process() {
    let child = process_with(&EXIT_42);
    let pid = child.process.pid;
    drop(child);
    assert!(!std::fs::exists(format!("/proc/{pid}")).unwrap());
}

#[test]
fn only_its_own_memory_is_left_to_a_process() {
    let child = process_with(&EXIT_42);
    let pid = child.process.pid;
    let mut maps = crate::kernel::maps::read_maps(pid).unwrap();
    maps.retain(|a| !a.name.starts_with(b"[v"));
    let blob = child.process.blob().unwrap().range();
    maps.retain(|a| !blob.contains(&a.start));
    let starts: Vec<u64> = maps.iter().map(|a| a.start).collect();
    assert_eq!(starts, [CODE, DATA]);
}

/// Waits until the counter at DATA is 63 and exits with it.
const LEADER: [u8; 33] = [
    0xb8, 0, 0, 0, 0x20, // mov eax, DATA
    0x8b, 0x38, // mov edi, [rax]
    0x83, 0xff, 63, // cmp edi, 63
    0x75, 0xf9, // jne -7
    0xb8, 231, 0, 0, 0, // mov eax, exit_group
    0x0f, 0x05, 0x90, // syscall
    // at 20: mov eax, DATA; lock inc dword [rax]; xor eax, eax; mov al, 34
    // (pause); syscall
    0xb8, 0, 0, 0, 0x20, 0xf0, 0xff, 0x00, 0x31, 0xc0, 0xb0, 34, 0x0f,
];

fn crowd(tids: impl Iterator<Item = u32>, leader: u32) -> TaskState {
    let mut threads = vec![thread(leader, CODE)];
    threads.extend(tids.map(|tid| thread(tid, CODE + 20)));
    task(threads)
}

/// Thread ids that are free and far from those given out.
fn free_tids(count: u32) -> impl Iterator<Item = u32> {
    // Tests that run at the same time look at different places.
    let here = rustix::thread::gettid().as_raw_nonzero().get() as u32;
    let far = (std::process::id() + 10_000 + here % 64 * 100) % 20_000 + 5_000;
    (far..)
        .filter(|t| !std::fs::exists(format!("/proc/{t}")).unwrap())
        .take(count as usize)
}

#[test]
fn sixty_three_threads_run_beside_the_first() {
    let mut code = LEADER.to_vec();
    code.push(0x05);
    let mut child = process_with(&code);
    let task = crowd(free_tids(63), child.process.pid);
    let threads = threads::create(PidPolicy::Same, &task, &mut child).unwrap();
    assert_eq!(threads.len(), 63);
    assert_eq!(let_go(&task, child, threads).exit_status(), Some(63));
}

#[test]
fn threads_outlive_a_leader_that_had_exited() {
    // The thread waits a little while for its leader's end, then exits.
    let mut child = process_with(&EXIT_42);
    let tid = free_tids(1).next().unwrap();
    let mut task = task(vec![thread(tid, CODE)]);
    task.pid = child.process.pid;
    let threads = threads::create(PidPolicy::Same, &task, &mut child).unwrap();
    assert_eq!(let_go(&task, child, threads).exit_status(), Some(42));
}

#[test]
fn threads_of_a_dropped_process_are_gone_too() {
    let mut child = process_with(&EXIT_42);
    let task = crowd(free_tids(5), child.process.pid);
    let threads = threads::create(PidPolicy::Same, &task, &mut child).unwrap();
    let pid = child.process.pid;
    drop(child);
    drop(threads);
    assert!(!std::fs::exists(format!("/proc/{pid}")).unwrap());
}

/// `nanosleep(DATA, 0)`, then exit_group with what it returned.
const SLEEP: [u8; 23] = [
    0xbf, 0, 0, 0, 0x20, // mov edi, DATA
    0x31, 0xf6, // xor esi, esi
    0xb8, 35, 0, 0, 0, // mov eax, nanosleep
    0x0f, 0x05, // syscall: ends at 14
    0x89, 0xc7, // mov edi, eax
    0xb8, 231, 0, 0, 0, // mov eax, exit_group
    0x0f, 0x05,
];

fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Lets a nanosleep of an hour, of which 300 ms remain, end; `rsp` is where its
/// stack is.
fn sleep_on(rsp: u64) {
    let child = process_with(&SLEEP);
    let hour = [3600_u64.to_le_bytes(), [0; 8]].concat();
    child.process.write("an hour", DATA, &hour).unwrap();
    let mut sleeper = thread(child.process.pid, CODE + 14);
    sleeper.registers.rax = -516_i64 as u64;
    sleeper.registers.orig_rax = libc::SYS_nanosleep as u64;
    sleeper.registers.rdi = DATA;
    sleeper.registers.rsp = rsp;
    sleeper.interrupted = Interrupted::Timed {
        remaining_ns: Some(300_000_000),
    };
    let start = now();
    let status = let_go(&task(vec![sleeper]), child, Vec::new());
    let slept = now() - start;
    assert_eq!(status.exit_status(), Some(0));
    assert!(slept >= Duration::from_millis(299), "{slept:?}");
    assert!(slept < Duration::from_millis(1500), "{slept:?}");
}

#[test]
fn a_sleep_takes_the_time_that_remained() {
    sleep_on(DATA + PAGE);
}

#[test]
fn a_sleep_without_a_stack_takes_the_time_that_remained() {
    sleep_on(0);
}

#[test]
fn a_stopped_task_comes_back_stopped() {
    let child = process_with(&EXIT_42);
    let mut task = task(vec![thread(child.process.pid, CODE)]);
    task.run = RunState::Stopped { signal: 20 };
    let pid = start(&task, child, Vec::new());
    let stat = crate::kernel::stat::Stat::read(pid.as_raw_pid() as u32).unwrap();
    assert_eq!(stat.state, b'T');
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(42));
}
