//! icecore with less than root's privileges: what is one's own can be dumped with
//! none at all, and what is missing for anything else is named.

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

const SOMEBODY: u32 = 1234;

/// A directory that anybody may write in, with an icecore that anybody may run.
struct Room(Scratch);

impl Room {
    fn new() -> Result<Self> {
        let room = Self(Scratch::new()?);
        let everybodys = || fs::Permissions::from_mode(0o777);
        io(fs::set_permissions(room.0.path(), everybodys()))?;
        io(fs::copy(common::icecore::program(), room.icecore()))?;
        Ok(room)
    }

    fn icecore(&self) -> PathBuf {
        self.0.path().join("icecore")
    }

    /// `icecore SUBCOMMAND`, run by a user without any privilege.
    fn by_somebody(&self, subcommand: &str) -> Icecore {
        let mut command = Command::new(self.icecore());
        command.uid(SOMEBODY).gid(SOMEBODY);
        Icecore::through(self.0.path(), command, subcommand)
    }

    fn dump_by_somebody(&self, target: &Target) -> Icecore {
        let dump = self.by_somebody("dump");
        dump.args(["-R", "-t", &target.pid().to_string()])
            .arg("-D")
            .arg(self.0.images())
    }

    /// `icecore SUBCOMMAND`, run by root without a capability.
    fn without(&self, capability: &str, subcommand: &str) -> Icecore {
        let mut setpriv = Command::new("setpriv");
        let less = format!("-{capability}");
        setpriv.args(["--bounding-set", &less, "--inh-caps", &less]);
        Icecore::by(self.0.path(), setpriv, subcommand)
    }
}

/// A process of somebody's that sleeps.
fn sleeper_of_somebody() -> Result<Target> {
    let mut command = Command::new("setsid");
    command.args(["sleep", "300"]).uid(SOMEBODY).gid(SOMEBODY);
    quiet(&mut command);
    started(Target::spawn(&mut command)?, "sleep")
}

#[test]
fn none_is_needed_to_dump_what_is_ones_own() -> Result {
    let room = Room::new()?;
    let mut target = sleeper_of_somebody()?;
    room.dump_by_somebody(&target).succeed()?;
    target.alive()?;
    // All that a restore would need is said at once, each with its use.
    let dry = room.by_somebody("restore").arg("--dry-run");
    let said = dry.arg("-D").arg(room.0.images()).run()?;
    let mut said = said.expect_failure("things in the way")?;
    for need in [
        "CAP_CHECKPOINT_RESTORE is missing: choosing a pid needs it",
        "CAP_SYS_TIME is missing: a time namespace",
        "CAP_SYS_ADMIN is missing: a time namespace",
        "the link to a task's program",
    ] {
        said = said.expect_failure(need)?;
    }
    // Whoever has all privileges can restore it, as whose it was.
    fs::remove_dir_all(room.0.images()).map_err(|e| e.to_string())?;
    target.dump(&room.0.images(), &[])?;
    target.restore(&room.0.images(), &[])?;
    let owner =
        std::os::unix::fs::MetadataExt::uid(&io(fs::metadata(format!("/proc/{}", target.pid())))?);
    assert_eq!(owner, SOMEBODY);
    Ok(())
}

#[test]
fn another_users_process_needs_cap_sys_ptrace() -> Result {
    let room = Room::new()?;
    let mut target = sleeper()?;
    let done = room.dump_by_somebody(&target).run()?;
    done.expect_failure("CAP_SYS_PTRACE")?;
    target.alive()
}

#[test]
fn each_that_a_restore_lacks_is_named() -> Result {
    let room = Room::new()?;
    let mut target = sleeper_of_somebody()?;
    target.dump(&room.0.images(), &[])?;
    for (capability, named) in [
        ("checkpoint_restore", "CAP_CHECKPOINT_RESTORE"),
        ("sys_time", "CAP_SYS_TIME"),
        ("setuid", "CAP_SETUID"),
        ("setgid", "CAP_SETGID"),
    ] {
        let dry = room.without(capability, "restore").arg("--dry-run");
        let done = dry.arg("-D").arg(room.0.images()).run()?;
        done.expect_failure(named)?.expect_failure("help: ")?;
    }
    Ok(())
}

#[test]
fn a_default_file_of_somebody_elses_is_not_insisted_on() -> Result {
    let room = Room::new()?;
    let target = sleeper_of_somebody()?;
    let home = room.0.path().join("home");
    io(fs::create_dir_all(home.join(".icecore")))?;
    io(fs::write(home.join(".icecore/default.conf"), "nonsense\n"))?;
    io(fs::set_permissions(
        &home,
        fs::Permissions::from_mode(0o700),
    ))?;
    let mut command = Command::new(room.icecore());
    command.uid(SOMEBODY).gid(SOMEBODY).env("HOME", &home);
    let pid = target.pid().to_string();
    command.args(["check", "--pid", &pid]).stdin(Stdio::null());
    let output = io(command.output())?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.starts_with("warning: ") && said.contains("going on without it"),
        "{said}"
    );
    Ok(())
}
