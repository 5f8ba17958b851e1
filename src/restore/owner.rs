//! Who gets the signals of a description: F_SETOWN_EX, F_SETSIG, O_ASYNC.

use icecore_images::files::OpenFile;

use super::RestoreContext;
use super::descriptors::values;
use crate::kernel::fcntl::{F_OWNER_PGRP, F_SETOWN_EX, F_SETSIG};
use crate::tracer::{Arg, Script};

/// Sets the owner of the description that the task has as `fd`. It remembers
/// the credentials of whoever sets it, so this is done when the task has its
/// own; the number is the one that a signal's siginfo tells.
pub(super) fn set(ctx: &RestoreContext<'_>, fd: u32, file: &OpenFile, script: &mut Script) {
    let number = u64::from(fd);
    if let Some(owner) = &file.owner {
        if owner.id != 0 {
            // A process group keeps its number.
            let id = match owner.kind {
                F_OWNER_PGRP => owner.id,
                _ => ctx.id_now(owner.id as u32) as i32,
            };
            let mut bytes = owner.kind.to_le_bytes().to_vec();
            bytes.extend(id.to_le_bytes());
            let address = script.bytes(&bytes);
            let command = Arg::Value(F_SETOWN_EX.into());
            let args = [Arg::Value(number), command, address.into()];
            let what = format!("set the owner of descriptor {fd}");
            script.call(what, libc::SYS_fcntl as u32, args);
        }
        if owner.signal != 0 {
            let args = values([number, F_SETSIG.into(), owner.signal.into()]);
            let what = format!("set the signal of descriptor {fd}");
            script.call(what, libc::SYS_fcntl as u32, args);
        }
    }
    if file.flags & libc::O_ASYNC as u32 != 0 {
        let args = values([number, libc::F_SETFL as u64, file.flags.into()]);
        let what = format!("switch on signals of descriptor {fd}");
        script.call(what, libc::SYS_fcntl as u32, args);
    }
}
