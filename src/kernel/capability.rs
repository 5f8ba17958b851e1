//! Capabilities by number, and what icecore itself has.

use std::io;

use icecore_images::creds::CredsState;

use super::status::Status;

/// Set gids and groups.
pub(crate) const CAP_SETGID: u32 = 6;
/// Set uids.
pub(crate) const CAP_SETUID: u32 = 7;
/// Set securebits, shrink the bounding set.
pub(crate) const CAP_SETPCAP: u32 = 8;
/// Suspend seccomp, install filters without no_new_privs.
pub(crate) const CAP_SYS_ADMIN: u32 = 21;
/// Raise priorities.
pub(crate) const CAP_SYS_NICE: u32 = 23;
/// Raise hard limits.
pub(crate) const CAP_SYS_RESOURCE: u32 = 24;
/// Change a login uid.
pub(crate) const CAP_AUDIT_CONTROL: u32 = 30;
/// Timers that wake the machine.
pub(crate) const CAP_WAKE_ALARM: u32 = 35;

const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// `CAP_CHOWN`; the number for one that is newer than this program.
pub(crate) fn name(capability: u32) -> String {
    match NAMES.get(capability as usize) {
        Some(name) => format!("CAP_{name}"),
        None => format!("capability {capability}"),
    }
}

/// Credentials of the calling thread.
pub(crate) fn own() -> io::Result<CredsState> {
    let tid = rustix::thread::gettid().as_raw_nonzero().get();
    let status = Status::read(tid as u32)?;
    let [inheritable, permitted, effective, bounding, ambient] = status.caps;
    let securebits = rustix::thread::capabilities_secure_bits()?;
    Ok(CredsState {
        uids: status.uids,
        gids: status.gids,
        groups: status.groups,
        cap_inheritable: inheritable,
        cap_permitted: permitted,
        cap_effective: effective,
        cap_bounding: bounding,
        cap_ambient: ambient,
        securebits: securebits.bits(),
        no_new_privs: status.no_new_privs,
    })
}

/// Whether the calling thread has a capability in effect.
pub(crate) fn have(capability: u32) -> bool {
    own().is_ok_and(|own| own.cap_effective & (1 << capability) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_agree() {
        assert_eq!(name(CAP_SYS_RESOURCE), "CAP_SYS_RESOURCE");
        assert_eq!(name(CAP_WAKE_ALARM), "CAP_WAKE_ALARM");
        assert_eq!(name(40), "CAP_CHECKPOINT_RESTORE");
        assert_eq!(name(63), "capability 63");
    }

    #[test]
    fn our_own_can_be_read() -> io::Result<()> {
        assert_eq!(own()?.uids[0], rustix::process::getuid().as_raw());
        Ok(())
    }
}
