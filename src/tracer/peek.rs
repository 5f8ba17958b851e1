//! What ptrace tells about a stopped tracee without running anything in it.
//!
//! Every function wants a tracee of the calling thread that is stopped; the
//! kernel answers ESRCH otherwise.

use std::io;

use icecore_images::thread::{Rseq, SyscallUserDispatch};

use super::fault;

// Requests and note types that the libc crate lacks.
const PTRACE_PEEKSIGINFO: u32 = 0x4209;
const PTRACE_GETSIGMASK: u32 = 0x420a;
const PTRACE_SECCOMP_GET_FILTER: u32 = 0x420c;
const PTRACE_SECCOMP_GET_METADATA: u32 = 0x420d;
const PTRACE_GET_RSEQ_CONFIGURATION: u32 = 0x420f;
const PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG: u32 = 0x4210;
const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: u32 = 0x4211;
const PTRACE_PEEKSIGINFO_SHARED: u32 = 1;
const NT_X86_XSTATE: usize = 0x202;
const NT_386_IOPERM: usize = 0x201;

/// Bytes of a siginfo.
pub const SIGINFO_LEN: usize = 128;
/// Siginfos asked for at once.
const BATCH: usize = 32;

/// One ptrace request whose `data` points at `data` and whose `addr` is a
/// number.
fn request(req: u32, tid: u32, addr: usize, data: &mut [u8]) -> io::Result<usize> {
    fault::point(fault::Kind::Ptrace);
    // Where only the length is asked for, the kernel wants no address at all.
    let to = match data.is_empty() {
        true => std::ptr::null_mut(),
        false => data.as_mut_ptr(),
    };
    // SAFETY: every request used here reads or writes at `data` only, and no
    // more bytes than the caller has sized the slice for: the size is given
    // in `addr` or in the structure itself, or is fixed by the request.
    let ret = unsafe { libc::ptrace(req, tid as libc::pid_t, addr, to) };
    match ret {
        -1 => Err(io::Error::last_os_error()),
        n => Ok(n as usize),
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn half(bytes: &[u8], at: usize) -> u32 {
    let mut half = [0; 4];
    half.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(half)
}

/// `None` where the kernel has no such request, or nothing to answer.
fn optional<T>(result: io::Result<T>, absent: &[i32]) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.raw_os_error().is_some_and(|n| absent.contains(&n)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The siginfos queued for the thread, or (`shared`) for its whole task, in
/// queue order, untouched.
pub fn queued_signals(tid: u32, shared: bool) -> io::Result<Vec<[u8; SIGINFO_LEN]>> {
    let mut signals = Vec::new();
    loop {
        let mut args = [0; 16];
        args[..8].copy_from_slice(&(signals.len() as u64).to_le_bytes());
        args[8..12].copy_from_slice(&(u32::from(shared) * PTRACE_PEEKSIGINFO_SHARED).to_le_bytes());
        args[12..].copy_from_slice(&(BATCH as u32).to_le_bytes());
        let mut batch = vec![0; BATCH * SIGINFO_LEN];
        let addr = args.as_ptr() as usize;
        let count = request(PTRACE_PEEKSIGINFO, tid, addr, &mut batch)?;
        for info in batch.chunks_exact(SIGINFO_LEN).take(count) {
            let mut signal = [0; SIGINFO_LEN];
            signal.copy_from_slice(info);
            signals.push(signal);
        }
        if count < BATCH {
            return Ok(signals);
        }
    }
}

/// The blocked signals; for a thread inside sigsuspend(2) and the like the
/// mask it will have afterwards.
pub fn signal_mask(tid: u32) -> io::Result<u64> {
    let mut mask = [0; 8];
    request(PTRACE_GETSIGMASK, tid, mask.len(), &mut mask)?;
    Ok(u64::from_le_bytes(mask))
}

/// The whole XSAVE area in the standard format.
pub fn xstate(tid: u32) -> io::Result<Vec<u8>> {
    let mut area = vec![0; 64 << 10];
    let len = get_regset(tid, NT_X86_XSTATE, &mut area)?;
    area.truncate(len);
    Ok(area)
}

/// Whether the thread was given I/O ports (ioperm(2)).
pub fn has_io_ports(tid: u32) -> io::Result<bool> {
    let mut bitmap = vec![0; 8 << 10];
    let none = [libc::ENXIO, libc::EINVAL, libc::ENODEV];
    Ok(optional(get_regset(tid, NT_386_IOPERM, &mut bitmap), &none)?.is_some_and(|len| len > 0))
}

fn get_regset(tid: u32, kind: usize, area: &mut [u8]) -> io::Result<usize> {
    let mut vec = libc::iovec {
        iov_base: area.as_mut_ptr().cast(),
        iov_len: area.len(),
    };
    // SAFETY: the kernel writes at most iov_len bytes at iov_base, which is
    // `area`, and the length it wrote to `vec`; both outlive the call.
    let ret = unsafe {
        libc::ptrace(
            libc::PTRACE_GETREGSET,
            tid as libc::pid_t,
            kind,
            &raw mut vec,
        )
    };
    match ret {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(vec.iov_len),
    }
}

/// The registered rseq area. `Ok(None)`: none, or a kernel before 5.13.
pub fn rseq(tid: u32) -> io::Result<Option<Rseq>> {
    let mut conf = [0; 24];
    let got = request(PTRACE_GET_RSEQ_CONFIGURATION, tid, conf.len(), &mut conf);
    let got = optional(got, &[libc::EIO])?;
    let rseq = Rseq {
        address: word(&conf, 0),
        len: half(&conf, 8),
        signature: half(&conf, 12),
        flags: half(&conf, 16),
    };
    Ok(got.and((rseq.address != 0).then_some(rseq)))
}

/// Syscall user dispatch. `Ok(None)`: off, or a kernel before 6.4.
pub fn syscall_user_dispatch(tid: u32) -> io::Result<Option<SyscallUserDispatch>> {
    let mut conf = [0; 32];
    let req = PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG;
    let got = optional(request(req, tid, conf.len(), &mut conf), &[libc::EIO])?;
    let sud = SyscallUserDispatch {
        mode: word(&conf, 0),
        selector: word(&conf, 8),
        offset: word(&conf, 16),
        len: word(&conf, 24),
    };
    Ok(got.and((sud.mode != 0).then_some(sud)))
}

/// Turns syscall user dispatch on; EIO on a kernel before 6.4.
pub fn set_syscall_user_dispatch(tid: u32, sud: &SyscallUserDispatch) -> io::Result<()> {
    let mut conf = Vec::with_capacity(32);
    for field in [sud.mode, sud.selector, sud.offset, sud.len] {
        conf.extend(field.to_le_bytes());
    }
    let req = PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG;
    request(req, tid, conf.len(), &mut conf).map(drop)
}

/// One instruction of a classic BPF program: code, jt, jf, k.
pub type SockFilter = (u16, u8, u8, u32);

/// Seccomp filter number `index`, the one installed first being 0, and its
/// SECCOMP_FILTER_FLAG_* as far as the kernel tells (LOG). `Ok(None)` past the
/// last one. EACCES without CAP_SYS_ADMIN, or under seccomp oneself.
pub fn seccomp_filter(tid: u32, index: usize) -> io::Result<Option<(Vec<SockFilter>, u64)>> {
    let Some(len) = optional(seccomp_filter_len(tid, index), &[libc::ENOENT])? else {
        return Ok(None);
    };
    let mut program = vec![0; len * 8];
    request(PTRACE_SECCOMP_GET_FILTER, tid, index, &mut program)?;
    let instructions = program.chunks_exact(8).map(|i| {
        let code = u16::from_le_bytes([i[0], i[1]]);
        (code, i[2], i[3], half(i, 4))
    });
    let mut meta = [0; 16];
    meta[..8].copy_from_slice(&(index as u64).to_le_bytes());
    request(PTRACE_SECCOMP_GET_METADATA, tid, meta.len(), &mut meta)?;
    Ok(Some((instructions.collect(), word(&meta, 8))))
}

/// Instructions of a filter: what the kernel answers where there is no buffer.
fn seccomp_filter_len(tid: u32, index: usize) -> io::Result<usize> {
    // SAFETY: with a null pointer for data nothing is written.
    let ret = unsafe {
        libc::ptrace(
            PTRACE_SECCOMP_GET_FILTER,
            tid as libc::pid_t,
            index,
            std::ptr::null_mut::<u8>(),
        )
    };
    match ret {
        -1 => Err(io::Error::last_os_error()),
        n => Ok(n as usize),
    }
}
