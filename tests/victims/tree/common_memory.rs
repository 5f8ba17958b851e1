//! Memory that relatives have in common, or had when they were made.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};

use super::family::{Relative, child};
use crate::common::tree;
use crate::harness::{Stage, Victim};
use crate::sys::{call, same};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("tree-shared-memory", shared),
        Victim::new("tree-copied", copied),
        // Only these: a dump of one that lives on reads with process_vm_readv, for
        // which the kernel gives a reader its own copies.
        Victim::new("tree-inherited", inherited),
        Victim::new("tree-one-memory", one_memory),
        Victim::new("tree-robust", robust),
    ]
}

const LEN: usize = 1 << 16;

/// Words of memory that stays mapped.
fn words(start: *mut std::ffi::c_void) -> &'static [AtomicU32] {
    // SAFETY: callers pass the start of a mapping of LEN bytes that is never
    // unmapped; atomics may be shared with whoever maps it.
    unsafe { std::slice::from_raw_parts(start.cast(), LEN / 4) }
}

fn anonymous(flags: MapFlags) -> Result<&'static [AtomicU32], String> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a mapping at a place of the kernel's choice.
    let start = unsafe { mmap_anonymous(std::ptr::null_mut(), LEN, prot, flags) };
    start.map(words).map_err(|e| e.to_string())
}

fn of_file(fd: impl std::os::fd::AsFd) -> Result<&'static [AtomicU32], String> {
    rustix::fs::ftruncate(&fd, LEN as u64).map_err(|e| e.to_string())?;
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: as above; nobody truncates the file.
    let start = unsafe { mmap(std::ptr::null_mut(), LEN, prot, MapFlags::SHARED, fd, 0) };
    start.map(words).map_err(|e| e.to_string())
}

/// Anonymous, of a memfd that both have and of one that only the mapping has, of
/// a file.
fn shared(stage: &mut Stage) -> Result<(), String> {
    let memfd = |name| {
        let flags = rustix::fs::MemfdFlags::empty();
        rustix::fs::memfd_create(name, flags).map_err(|e| e.to_string())
    };
    let kept = memfd("kept")?;
    let file = fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(stage.dir().join("mapped"))
        .map_err(|e| e.to_string())?;
    let all = [
        anonymous(MapFlags::SHARED)?,
        of_file(&kept)?,
        of_file(memfd("gone")?)?,
        of_file(file)?,
    ];
    let mut relatives = (0..3_usize).map(|n| {
        child(move || {
            Ok(Box::new(move || {
                all.iter().for_each(|m| {
                    m[n].fetch_add(1, Ordering::SeqCst);
                });
                Ok(())
            }))
        })
    });
    let mut relatives = relatives.by_ref().collect::<Result<Vec<Relative>, _>>()?;
    let mut expected = 0;
    while stage.next()? {
        relatives.iter_mut().try_for_each(Relative::check)?;
        expected += 1;
        for memory in all {
            let now: Vec<u32> = memory[..3]
                .iter()
                .map(|w| w.load(Ordering::SeqCst))
                .collect();
            same("counters", &now, &vec![expected; 3])?;
        }
    }
    Ok(())
}

/// Each goes its own way from what all had.
fn copied(stage: &mut Stage) -> Result<(), String> {
    let memory = anonymous(MapFlags::PRIVATE)?;
    for (n, word) in memory.iter().enumerate() {
        word.store(n as u32, Ordering::SeqCst);
    }
    let own = |base: u32| {
        let mut round = 0;
        move || {
            for (n, word) in memory.iter().enumerate() {
                let changed = n % 2048 < 4;
                let expected = if changed {
                    n as u32 + base * round
                } else {
                    n as u32
                };
                same("word", &word.load(Ordering::SeqCst), &expected)?;
                if changed {
                    word.fetch_add(base, Ordering::SeqCst);
                }
            }
            round += 1;
            Ok(())
        }
    };
    let mut relatives = Vec::new();
    for base in 1..5 {
        relatives.push(child(move || {
            let mut below = child(move || Ok(Box::new(own(base * 100))))?;
            let mut job = own(base);
            Ok(Box::new(move || below.check().and_then(|()| job())))
        })?);
    }
    let mut job = own(7);
    while stage.next()? {
        job()?;
        relatives.iter_mut().try_for_each(Relative::check)?;
    }
    Ok(())
}

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A process that is no thread but has our memory.
fn one_memory(stage: &mut Stage) -> Result<(), String> {
    extern "C" fn count(_: *mut libc::c_void) -> i32 {
        loop {
            COUNTER.fetch_add(1, Ordering::SeqCst);
            let pause = [0, 1_000_000_i64];
            // SAFETY: reads two words of this stack.
            unsafe { libc::syscall(libc::SYS_nanosleep, pause.as_ptr(), 0) };
        }
    }
    let stack = Box::leak(vec![0_u8; 64 << 10].into_boxed_slice());
    let top = stack.as_mut_ptr_range().end.cast();
    let flags = libc::CLONE_VM | libc::SIGCHLD;
    // SAFETY: the stack is nobody else's for ever, and `count` uses nothing of
    // what it shares with us but the counter.
    let pid = unsafe { libc::clone(count, top, flags, std::ptr::null_mut()) };
    if pid < 0 {
        return Err(format!("clone: {}", std::io::Error::last_os_error()));
    }
    while stage.next()? {
        let before = COUNTER.load(Ordering::SeqCst);
        crate::common::wait::until("the counter", crate::common::wait::LIMIT, || {
            Ok((COUNTER.load(Ordering::SeqCst) > before).then_some(()))
        })?;
    }
    call("kill", libc::SYS_kill, &[pid as u64, libc::SIGKILL as u64])?;
    super::family::wait_for(pid as u32).map(drop)
}

/// A robust mutex in shared memory, which a relative holds when it ends.
fn robust(stage: &mut Stage) -> Result<(), String> {
    let memory = anonymous(MapFlags::SHARED)?;
    let mutex = memory.as_ptr().cast_mut().cast::<libc::pthread_mutex_t>();
    // SAFETY: the memory is large enough, stays, and is nothing else's.
    let done = unsafe {
        let mut how = std::mem::zeroed();
        libc::pthread_mutexattr_init(&raw mut how)
            | libc::pthread_mutexattr_setpshared(&raw mut how, libc::PTHREAD_PROCESS_SHARED)
            | libc::pthread_mutexattr_setrobust(&raw mut how, libc::PTHREAD_MUTEX_ROBUST)
            | libc::pthread_mutex_init(mutex, &raw const how)
    };
    same("make a mutex", &done, &0)?;
    let at = mutex as usize;
    let relative = child(move || {
        // SAFETY: a mutex that stays, see above.
        let locked = unsafe { libc::pthread_mutex_lock(at as *mut libc::pthread_mutex_t) };
        same("lock", &locked, &0)?;
        Ok(Box::new(|| Ok(())))
    })?;
    // SAFETY: the mutex stays.
    let attempt = || unsafe { libc::pthread_mutex_trylock(mutex) };
    while stage.next()? {
        same("the lock", &attempt(), &libc::EBUSY)?;
    }
    same("relatives", &tree::children(std::process::id()).len(), &1)?;
    drop(relative);
    same("the lock of the ended", &attempt(), &libc::EOWNERDEAD)
}

const LARGE: usize = 32 << 20;

/// Five have in common what one filled: together they take little more than
/// one alone.
fn inherited(stage: &mut Stage) -> Result<(), String> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a mapping at a place of the kernel's choice.
    let start = unsafe { mmap_anonymous(std::ptr::null_mut(), LARGE, prot, MapFlags::PRIVATE) };
    let start = start.map_err(|e| e.to_string())?;
    // SAFETY: the mapping is that long and stays; atomics need no exclusive
    // access.
    let memory: &'static [AtomicU32] =
        unsafe { std::slice::from_raw_parts(start.cast(), LARGE / 4) };
    for (n, word) in memory.iter().enumerate() {
        word.store(n as u32 | 1, Ordering::SeqCst);
    }
    let untouched = move || {
        let mut words = memory.iter().enumerate().skip(4096).step_by(512);
        match words.find(|(n, word)| word.load(Ordering::SeqCst) != *n as u32 | 1) {
            Some((n, _)) => Err(format!("word {n} has changed")),
            None => Ok(()),
        }
    };
    let mut relatives = Vec::new();
    for n in 0..4 {
        relatives.push(child(move || {
            memory[n * 1024].store(0, Ordering::SeqCst);
            Ok(Box::new(untouched))
        })?);
    }
    while stage.next()? {
        untouched()?;
        relatives.iter_mut().try_for_each(Relative::check)?;
        let pids = relatives.iter().map(|r| r.pid).chain([std::process::id()]);
        let together: u64 = pids.map(proportional).sum::<Result<u64, _>>()?;
        if together > 2 * LARGE as u64 {
            return Err(format!("together they take {together} bytes"));
        }
    }
    Ok(())
}

/// Bytes of memory, each divided by the number of those who have it.
fn proportional(pid: u32) -> Result<u64, String> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    let rollup = rollup.map_err(|e| e.to_string())?;
    let line = rollup.lines().find(|line| line.starts_with("Pss:"));
    let word = line.and_then(|line| line.split_whitespace().nth(1));
    let kb: u64 = word.and_then(|word| word.parse().ok()).ok_or("no Pss")?;
    Ok(kb * 1024)
}
