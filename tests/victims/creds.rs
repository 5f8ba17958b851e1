//! Credentials, each thread its own.

use crate::harness::{Stage, Victim};
use crate::sys::{Threads, at, call, prctl, same};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("creds-of-threads", threads).check(|outside| {
            let ambient = outside.matching("thread/*/status/CapAmb");
            match ambient.filter(|(_, v)| *v != "0000000000000000").count() {
                1 => Ok(()),
                n => Err(format!("{n} threads have ambient capabilities")),
            }
        }),
        Victim::new("creds-of-a-user", user),
        Victim::new("creds-dumpable-again", dumpable_again),
        Victim::new("login-uid", login_uid).check(|outside| match outside.get("loginuid") {
            Some("4242") => Ok(()),
            other => Err(format!("loginuid is {other:?}")),
        }),
    ]
}

const SECUREBITS: (u64, u64) = (27, 28);
const PDEATHSIG: u64 = 1;
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_RAW: u64 = 1 << 13;
const CAP_MKNOD: u64 = 27;

fn securebits() -> Result<u64, String> {
    prctl("securebits", &[SECUREBITS.0])
}

fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<(), String> {
    let header = [0x2008_0522_u32, 0];
    let data = [effective, permitted, inheritable];
    let low = data.map(|set| set as u32);
    let high = data.map(|set| (set >> 32) as u32);
    let args = [at(&header), at(&[low, high])];
    call("capset", libc::SYS_capset, &args).map(drop)
}

fn set_uids(uids: [u64; 3]) -> Result<(), String> {
    call("setresuid", libc::SYS_setresuid, &uids).map(drop)
}

fn threads(stage: &mut Stage) -> Result<(), String> {
    let mut threads = Threads::new();
    // Another user with an ambient capability and a filesystem uid of its own.
    threads.spawn(|| {
        prctl("no setuid fixup", &[SECUREBITS.1, 1 << 2])?;
        call("setgroups", libc::SYS_setgroups, &[3, at(&[5_u32, 7, 9])])?;
        call("setresgid", libc::SYS_setresgid, &[101, 102, 103])?;
        call("setfsgid", libc::SYS_setfsgid, &[103])?;
        set_uids([1001, 1002, 1003])?;
        call("setfsuid", libc::SYS_setfsuid, &[1003])?;
        let both = NET_BIND_SERVICE | NET_RAW;
        capset(NET_RAW, both, NET_BIND_SERVICE)?;
        prctl("ambient", &[47, 2, 10, 0, 0])?;
        prctl("pdeathsig", &[PDEATHSIG, libc::SIGUSR2 as u64])?;
        Ok(Box::new(|| {
            same("securebits", &securebits()?, &4)?;
            let signal = crate::sys::prctl_into("pdeathsig", 2)?;
            same("parent-death signal", &signal, &(libc::SIGUSR2 as u64))
        }))
    })?;
    // Root without privileges, for good: every bit set and locked.
    threads.spawn(|| {
        prctl("drop MKNOD", &[24, CAP_MKNOD])?;
        prctl("securebits", &[SECUREBITS.1, 0xef])?;
        capset(0, 0, 0)?;
        Ok(Box::new(|| same("securebits", &securebits()?, &0xef)))
    })?;
    threads.spawn(|| {
        prctl("no new privileges", &[38, 1, 0, 0, 0])?;
        prctl("keep capabilities", &[8, 1])?;
        Ok(Box::new(|| {
            same("keepcaps", &prctl("keepcaps", &[7])?, &1)?;
            same("no new privileges", &prctl("nnp", &[39, 0, 0, 0, 0])?, &1)
        }))
    })?;
    while stage.next()? {
        threads.check()?;
        same("the leader's securebits", &securebits()?, &0)?;
    }
    Ok(())
}

/// A whole process of an ordinary user, no longer dumpable by its change.
fn user(stage: &mut Stage) -> Result<(), String> {
    call("setgroups", libc::SYS_setgroups, &[0, 0])?;
    call("setresgid", libc::SYS_setresgid, &[54321; 3])?;
    set_uids([54321; 3])?;
    prctl("pdeathsig", &[PDEATHSIG, libc::SIGWINCH as u64])?;
    let dumpable = prctl("dumpable", &[3])?;
    while stage.next()? {
        same("dumpable", &prctl("dumpable", &[3])?, &dumpable)?;
        let signal = crate::sys::prctl_into("pdeathsig", 2)?;
        same("parent-death signal", &signal, &(libc::SIGWINCH as u64))?;
    }
    Ok(())
}

/// One that has made itself dumpable again, and can no longer become root.
fn dumpable_again(stage: &mut Stage) -> Result<(), String> {
    set_uids([54321; 3])?;
    prctl("dumpable", &[4, 1])?;
    while stage.next()? {
        same("dumpable", &prctl("dumpable", &[3])?, &1)?;
        if set_uids([0; 3]).is_ok() {
            return Err("became root".to_owned());
        }
    }
    Ok(())
}

fn login_uid(stage: &mut Stage) -> Result<(), String> {
    std::fs::write("/proc/self/loginuid", "4242").map_err(|e| format!("loginuid: {e}"))?;
    while stage.next()? {}
    Ok(())
}
