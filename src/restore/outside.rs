//! What is set through files of /proc: oom_score_adj and autogroup by icecore,
//! loginuid by the new process itself, as nobody else may. All of it before the
//! process has the task's root and credentials.

use std::io;
use std::sync::atomic::AtomicU8;

use icecore_images::task::TaskState;

use super::RestoreContext;
use super::child::Child;
use crate::blocker::Place;
use crate::error::RestoreError;
use crate::kernel::capability::{self, CAP_AUDIT_CONTROL, CAP_SYS_RESOURCE};
use crate::kernel::proc_text::{self, number};

/// Writes them for a process that has nothing of the task's yet.
pub(super) fn restore(
    ctx: &mut RestoreContext<'_>,
    task: &TaskState,
    child: &mut Child,
) -> Result<(), RestoreError> {
    let live_pid = child.process.pid;
    let write = |file: &str, value: String| {
        std::fs::write(format!("/proc/{live_pid}/{file}"), value).map_err(|source| {
            RestoreError::Rebuild {
                what: format!("{file} of pid {}", task.pid),
                source,
            }
        })
    };
    if read_i32(live_pid, "oom_score_adj").ok() != Some(task.oom_score_adj) {
        write("oom_score_adj", task.oom_score_adj.to_string())?;
    }
    match task.autogroup {
        // In another's session the group is the others' too.
        Some(group) if group.nice != 0 && task.sid == task.pid => {
            write("autogroup", group.nice.to_string())?;
        }
        Some(group) if group.nice != 0 => ctx.notes.push(format!(
            "pid {} was in an autogroup of nice {}, whose session is not in the image: it is in \
             the restorer's now",
            task.pid, group.nice
        )),
        _ => {}
    }
    match own_login_uid() {
        Some(own) if own != task.login_uid => set_login_uid(task.login_uid, child),
        _ => Ok(()),
    }
}

/// Room for the path and a number, which a process that is still a copy of this
/// one has at the same place.
static ROOM: [AtomicU8; 64] = [const { AtomicU8::new(0) }; 64];
const LOGIN_UID_FILE: &[u8] = b"/proc/self/loginuid\0";

fn set_login_uid(uid: u32, child: &mut Child) -> Result<(), RestoreError> {
    // In one that is no copy any more there is the restorer's room.
    let path = match child.process.blob() {
        Ok(blob) => blob.script(),
        Err(_) => ROOM.as_ptr() as u64,
    };
    let (at, text) = (path + 32, uid.to_string());
    let process = &child.process;
    process.write("prepare its loginuid", path, LOGIN_UID_FILE)?;
    process.write("prepare its loginuid", at, text.as_bytes())?;
    let open = [libc::AT_FDCWD as u64, path, libc::O_RDWR as u64];
    let fd = child.syscall("open its loginuid", libc::SYS_openat, &open)?;
    let write = [fd, at, text.len() as u64];
    child.syscall("set its loginuid", libc::SYS_write, &write)?;
    child.syscall("close its loginuid", libc::SYS_close, &[fd])?;
    Ok(())
}

/// `None` in a kernel without audit.
fn own_login_uid() -> Option<u32> {
    number(&proc_text::read(std::process::id(), "loginuid").ok()?)
}

fn read_i32(id: u32, file: &str) -> io::Result<i32> {
    number(&proc_text::read(id, file)?).ok_or_else(|| proc_text::malformed(file))
}

/// Notes what icecore may not set.
pub(super) fn plan(ctx: &mut RestoreContext<'_>, task: &TaskState) {
    let own = read_i32(std::process::id(), "oom_score_adj").unwrap_or(0);
    if task.oom_score_adj < own && !capability::have(CAP_SYS_RESOURCE) {
        let problem = format!(
            "its oom_score_adj is {}, below icecore's own {own}",
            task.oom_score_adj
        );
        let help = "run icecore with CAP_SYS_RESOURCE, or with an oom_score_adj as low";
        ctx.obstacle(Place::Task { pid: task.pid }, problem, Some(help));
    }
    let own = own_login_uid();
    if own.is_some_and(|own| own != task.login_uid && own != u32::MAX)
        && !capability::have(CAP_AUDIT_CONTROL)
    {
        let problem = format!("its login uid is {}, not icecore's", task.login_uid as i32);
        let help = Some("run icecore with CAP_AUDIT_CONTROL");
        ctx.obstacle(Place::Task { pid: task.pid }, problem, help);
    }
}
