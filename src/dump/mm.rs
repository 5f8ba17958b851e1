//! What an address space has besides its areas: its fields (where code, data,
//! heap, arguments and environment lie), its program, and prctl state.

use std::path::PathBuf;

use icecore_images::mm::MmFields;
use icecore_images::prctl::{MlockFuture, MmControls};
use icecore_images::regular::FileRef;
use rustix::io::Errno;

use super::DumpContext;
use super::file_ref::{self, Link};
use crate::blocker::Place;
use crate::error::DumpError;
use crate::tracer::{Call, Outcome, Script};

/// The fields `/proc` shows; the end of the heap comes from inside.
pub(super) fn fields(pid: u32, tid: u32) -> Result<MmFields, DumpError> {
    let stat = read(pid, format!("/proc/{tid}/stat"))?;
    let auxv = read(pid, format!("/proc/{tid}/auxv"))?;
    let field = |n| stat_field(&stat, n).ok_or_else(|| short_stat(pid, tid));
    Ok(MmFields {
        start_code: field(26)?,
        end_code: field(27)?,
        start_stack: field(28)?,
        start_data: field(45)?,
        end_data: field(46)?,
        start_brk: field(47)?,
        arg_start: field(48)?,
        arg_end: field(49)?,
        env_start: field(50)?,
        env_end: field(51)?,
        brk: 0,
        auxv: auxv.into(),
    })
}

/// The task's program; `None` if it cannot be carried (noted).
pub(super) fn exe(
    ctx: &mut DumpContext<'_>,
    pid: u32,
    tid: u32,
) -> Result<Option<FileRef>, DumpError> {
    let path = PathBuf::from(format!("/proc/{tid}/exe"));
    let place = Place::Task { pid };
    let link = Link {
        pid,
        place: &place,
        path: &path,
    };
    file_ref::describe(ctx, link)
}

/// prctl state that can be seen from outside.
pub(super) fn controls(pid: u32, tid: u32) -> Result<MmControls, DumpError> {
    let path = format!("/proc/{tid}/coredump_filter");
    let text = read(pid, path.clone())?;
    let digits = String::from_utf8_lossy(&text);
    let coredump_filter = u32::from_str_radix(digits.trim(), 16).map_err(|e| DumpError::Read {
        pid,
        what: path,
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, e),
    })?;
    Ok(MmControls {
        coredump_filter,
        ..MmControls::default()
    })
}

fn read(pid: u32, what: String) -> Result<Vec<u8>, DumpError> {
    std::fs::read(&what).map_err(|source| DumpError::Read { pid, what, source })
}

/// Field `n` of `stat`, counted from 1 as proc(5) does. The name in
/// parentheses may hold anything, so counting starts behind the last one.
fn stat_field(stat: &[u8], n: usize) -> Option<u64> {
    let behind_name = stat.iter().rposition(|&b| b == b')')? + 1;
    let field = stat[behind_name..]
        .split(u8::is_ascii_whitespace)
        .filter(|f| !f.is_empty())
        .nth(n.checked_sub(3)?)?;
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn short_stat(pid: u32, tid: u32) -> DumpError {
    DumpError::Read {
        pid,
        what: format!("/proc/{tid}/stat"),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, "a field is missing"),
    }
}

/// The questions only the task itself can answer.
#[derive(Debug)]
pub(super) struct Questions {
    brk: Call,
    dumpable: Call,
    thp_disable: Call,
    memory_merge: Call,
    mdwe: Call,
    probe: Probe,
}

/// How it is found out whether new areas are locked: one is mapped, looked at
/// and unmapped.
#[derive(Debug)]
struct Probe {
    locked: Call,
    resident: Call,
    vector: crate::tracer::Buffer,
}

/// Asks for them; `free` is the address of a page that is not mapped.
pub(super) fn ask(script: &mut Script, free: u64) -> Questions {
    let mut prctl = |what: &'static str, option: u32| {
        script.try_call(
            what,
            libc::SYS_prctl as u32,
            [u64::from(option), 0, 0, 0, 0],
        )
    };
    let dumpable = prctl("read the dumpable flag", libc::PR_GET_DUMPABLE as u32);
    let thp_disable = prctl("read the THP setting", libc::PR_GET_THP_DISABLE as u32);
    let memory_merge = prctl("read the KSM setting", PR_GET_MEMORY_MERGE);
    let mdwe = prctl("read MDWE", libc::PR_GET_MDWE as u32);
    Questions {
        brk: script.try_call("read the end of the heap", libc::SYS_brk as u32, [0_u64]),
        dumpable,
        thp_disable,
        memory_merge,
        mdwe,
        probe: probe(script, free),
    }
}

/// PR_GET_MEMORY_MERGE, which libc lacks.
const PR_GET_MEMORY_MERGE: u32 = 68;

/// msync(MS_INVALIDATE) says EBUSY where an area is locked; a locked area has
/// its pages at once unless it is locked on fault.
fn probe(script: &mut Script, free: u64) -> Probe {
    const PAGE: u64 = 4096;
    let vector = script.buffer(1);
    let prot = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    script.call(
        "map a page to see whether it is locked",
        libc::SYS_mmap as u32,
        [free, PAGE, prot, flags, u64::MAX, 0],
    );
    let invalidate = libc::MS_INVALIDATE as u64;
    let locked = script.try_call(
        "see whether it is locked",
        libc::SYS_msync as u32,
        [free, PAGE, invalidate],
    );
    let resident = script.try_call(
        "see whether it is resident",
        libc::SYS_mincore as u32,
        [free.into(), PAGE.into(), crate::tracer::Arg::from(vector)],
    );
    script.call("unmap it", libc::SYS_munmap as u32, [free, PAGE]);
    Probe {
        locked,
        resident,
        vector,
    }
}

/// Takes down the answers. What a kernel does not know has its default.
pub(super) fn take_answers(
    questions: &Questions,
    outcome: &Outcome,
    fields: &mut MmFields,
    controls: &mut MmControls,
) {
    let number = |call| outcome.result(call).unwrap_or(0);
    fields.brk = number(questions.brk);
    controls.dumpable = number(questions.dumpable) as u32;
    controls.thp_disable = number(questions.thp_disable);
    controls.memory_merge = number(questions.memory_merge) != 0;
    controls.mdwe = number(questions.mdwe) as u32;
    let probe = &questions.probe;
    let locked = outcome.result(probe.locked) == Err(Errno::BUSY);
    let resident =
        outcome.result(probe.resident).is_ok() && outcome.buffer(probe.vector)[0] & 1 != 0;
    controls.mlock_future = match (locked, resident) {
        (false, _) => MlockFuture::No,
        (true, true) => MlockFuture::Locked,
        (true, false) => MlockFuture::OnFault,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_confuse_stat() {
        let stat = b"7 (a) b) 12 (x) S 1 2 3 4 5\n";
        assert_eq!(stat_field(stat, 4), Some(1));
        assert_eq!(stat_field(stat, 8), Some(5));
        assert_eq!(stat_field(stat, 9), None);
    }

    #[test]
    fn our_own_fields_are_in_order() {
        let pid = std::process::id();
        let fields = fields(pid, pid).unwrap();
        assert!(fields.start_code < fields.end_code);
        assert!(fields.arg_start < fields.arg_end && fields.arg_end <= fields.env_start);
        assert_eq!(fields.auxv.0.len() % 16, 0);
        let local = 0_u8;
        assert!((&raw const local as u64) < fields.arg_start);
        controls(pid, pid).unwrap();
    }
}
