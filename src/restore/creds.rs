//! Credentials of a thread. The raw system calls change the calling thread
//! alone.
//!
//! Ordering requirements:
//! - inheritable capabilities are limited by the bounding set: before it
//!   shrinks;
//! - ambient capabilities want the inheritable and permitted ones, and no
//!   SECBIT_NO_CAP_AMBIENT_RAISE: before the final securebits;
//! - a change of uid drops capabilities unless SECBIT_NO_SETUID_FIXUP is set:
//!   it is, until the uids are;
//! - the final capabilities come last; everything else needs them.

use icecore_images::creds::CredsState;
use linux_raw_sys::prctl as pr;

use super::RestoreContext;
use crate::blocker::Place;
use crate::kernel::capability::{self, CAP_SETGID, CAP_SETPCAP, CAP_SETUID};
use crate::kernel::prctl::{
    PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, PR_CAP_AMBIENT_RAISE, PR_CAPBSET_DROP,
};
use crate::tracer::{Script, args};

/// How many capabilities a message names before it sums up.
const FEW: usize = 4;
const PRCTL: u32 = libc::SYS_prctl as u32;
const SECBIT_NO_SETUID_FIXUP: u32 = 1 << 2;
const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Turns credentials `own`, which the thread has from icecore, into `then`.
/// Steps that change nothing are left out: they might need privileges that
/// nothing else needs.
pub(super) fn restore(own: &CredsState, then: &CredsState, script: &mut Script) {
    if then.cap_inheritable != own.cap_inheritable {
        let all = own.cap_permitted;
        capset(
            script,
            "set inheritable capabilities",
            all,
            all,
            then.cap_inheritable,
        );
    }
    ambient(own, then, script);
    for cap in bits(own.cap_bounding & !then.cap_bounding) {
        let what = format!("drop {} from the bounding set", capability::name(cap));
        script.call(what, PRCTL, args![PR_CAPBSET_DROP, cap]);
    }
    groups(own, then, script);
    let uids = then.uids != own.uids;
    if uids {
        let kept = own.securebits | SECBIT_NO_SETUID_FIXUP;
        set_securebits(script, own.securebits, kept);
        let numbers = (libc::SYS_setresuid, libc::SYS_setfsuid);
        set_ids(script, "uid", numbers, then.uids);
        set_securebits(script, kept, then.securebits);
    } else {
        set_securebits(script, own.securebits, then.securebits);
    }
    let caps = |c: &CredsState| (c.cap_effective, c.cap_permitted, c.cap_inheritable);
    if uids || caps(own) != caps(then) {
        let (effective, permitted, inheritable) = caps(then);
        capset(
            script,
            "set the capabilities",
            effective,
            permitted,
            inheritable,
        );
    }
}

/// No new privileges: before seccomp filters, which then need no privilege.
pub(super) fn no_new_privs(then: &CredsState, script: &mut Script) {
    if then.no_new_privs {
        let args = args![pr::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0];
        script.call("set no_new_privs", PRCTL, args);
    }
}

fn ambient(own: &CredsState, then: &CredsState, script: &mut Script) {
    if own.cap_ambient == then.cap_ambient {
        return;
    }
    let clear = args![PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0];
    script.call("clear ambient capabilities", PRCTL, clear);
    for cap in bits(then.cap_ambient) {
        let what = format!("raise {} in the ambient set", capability::name(cap));
        let raise = args![PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0];
        script.call(what, PRCTL, raise);
    }
}

/// Real, effective and saved id by one call; the filesystem's, which follows the
/// effective one, by the other where it differs.
fn set_ids(script: &mut Script, what: &str, (setres, setfs): (i64, i64), ids: [u32; 4]) {
    let [real, effective, saved, fs] = ids;
    let args = args![real, effective, saved];
    script.call(format!("set the {what}s"), setres as u32, args);
    if fs != effective {
        let what = format!("set the filesystem {what}");
        script.call(what, setfs as u32, args![fs]);
    }
}

fn groups(own: &CredsState, then: &CredsState, script: &mut Script) {
    if then.groups != own.groups {
        let list: Vec<u8> = then.groups.iter().flat_map(|g| g.to_le_bytes()).collect();
        let list = script.bytes(&list);
        let nr = libc::SYS_setgroups as u32;
        script.call("set the groups", nr, args![then.groups.len(), list]);
    }
    if then.gids != own.gids {
        let numbers = (libc::SYS_setresgid, libc::SYS_setfsgid);
        set_ids(script, "gid", numbers, then.gids);
    }
}

fn set_securebits(script: &mut Script, from: u32, to: u32) {
    if from != to {
        script.call("set securebits", PRCTL, args![pr::PR_SET_SECUREBITS, to]);
    }
}

/// `struct __user_cap_header_struct` and two `__user_cap_data_struct`s, the
/// low words first.
fn capset(
    script: &mut Script,
    what: &'static str,
    effective: u64,
    permitted: u64,
    inheritable: u64,
) {
    let mut header = LINUX_CAPABILITY_VERSION_3.to_le_bytes().to_vec();
    header.extend([0; 4]);
    let mut data = Vec::with_capacity(24);
    for shift in [0, 32] {
        for set in [effective, permitted, inheritable] {
            data.extend(((set >> shift) as u32).to_le_bytes());
        }
    }
    let (header, data) = (script.bytes(&header), script.bytes(&data));
    script.call(what, libc::SYS_capset as u32, args![header, data]);
}

fn bits(mask: u64) -> impl Iterator<Item = u32> {
    (0..64).filter(move |bit| mask & (1 << bit) != 0)
}

/// Notes what icecore itself must have to give these credentials.
pub(super) fn plan(ctx: &mut RestoreContext<'_>, place: &Place, then: &CredsState) {
    let Ok(own) = capability::own() else {
        let problem = "icecore cannot read its own credentials from /proc/self/status";
        ctx.obstacle(Place::Machine, problem.to_owned(), None);
        return;
    };
    for (what, wanted, have) in [
        ("permitted", then.cap_permitted, own.cap_permitted),
        ("bounding", then.cap_bounding, own.cap_bounding),
        (
            "inheritable",
            then.cap_inheritable,
            own.cap_bounding | own.cap_inheritable,
        ),
    ] {
        let lacking: Vec<String> = bits(wanted & !have).map(capability::name).collect();
        if !lacking.is_empty() {
            let named = match lacking.len() {
                0..=FEW => lacking.join(", "),
                many => format!("{} and {} others", lacking[..FEW].join(", "), many - FEW),
            };
            let problem = format!("its {what} capabilities include {named}, which icecore lacks");
            let help = match lacking.len() {
                0..=FEW => format!("run icecore with {}", lacking.join(", ")),
                _ => "run icecore as root, with all capabilities the task had".to_owned(),
            };
            ctx.obstacle(place.clone(), problem, Some(&help));
        }
    }
    let steps = [
        (then.uids != own.uids, CAP_SETUID, "change uids"),
        (
            then.uids != own.uids,
            CAP_SETPCAP,
            "change uids and keep capabilities",
        ),
        (
            then.groups != own.groups || then.gids != own.gids,
            CAP_SETGID,
            "change gids",
        ),
        (
            own.cap_bounding & !then.cap_bounding != 0,
            CAP_SETPCAP,
            "shrink the bounding set",
        ),
        (
            then.securebits != own.securebits,
            CAP_SETPCAP,
            "set securebits",
        ),
    ];
    for (needed, cap, what) in steps {
        if needed && own.cap_effective & (1 << cap) == 0 {
            let name = capability::name(cap);
            let problem = format!("icecore needs {name} to {what}");
            ctx.obstacle(
                place.clone(),
                problem,
                Some(&format!("run icecore with {name}")),
            );
        }
    }
    if own.no_new_privs && !then.no_new_privs {
        let problem = "icecore runs with no_new_privs, which the task would keep".to_owned();
        ctx.obstacle(place.clone(), problem, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> CredsState {
        CredsState {
            cap_permitted: 0xff,
            cap_effective: 0xff,
            cap_bounding: 0xff,
            ..CredsState::default()
        }
    }

    #[test]
    fn equal_credentials_take_no_step() {
        let mut script = Script::new();
        restore(&root(), &root(), &mut script);
        no_new_privs(&root(), &mut script);
        assert!(script.is_empty());
    }

    #[test]
    fn an_ordinary_user_takes_few() {
        let user = CredsState {
            uids: [1000; 4],
            gids: [1000; 4],
            groups: vec![1000, 27],
            cap_bounding: 0xff,
            ..CredsState::default()
        };
        let mut script = Script::new();
        restore(&root(), &user, &mut script);
        // groups, gids, securebits, uids, securebits, capabilities
        assert_eq!(script.call_count(), 6);
    }
}
