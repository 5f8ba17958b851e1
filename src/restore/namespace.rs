//! A pid namespace for one restored tree (`--pids ns`), so that any number of
//! copies of one image can live side by side: with a mount namespace of its
//! own, in which `/proc` shows it, and an init that reaps, lives as long as the
//! tree, and passes its root's exit status on.

use icecore_images::mm::MmState;
use icecore_images::task::TaskState;

use super::RestoreContext;
use super::child::Child;
use super::spawn;
use crate::error::RestoreError;
use crate::kernel::clone3::CloneArgs;
use crate::tracer::remote::Pace;
use crate::tracer::{Arg, Script};

/// The init of a namespace, not let go yet.
#[derive(Debug)]
pub(crate) struct Init(Child);

/// Makes the namespace, for the tree of `task`.
pub(crate) fn create(
    ctx: &RestoreContext<'_>,
    task: &TaskState,
    mm: &MmState,
) -> Result<Init, RestoreError> {
    let flags = (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64;
    let mut init = spawn::spawn(ctx, task.pid, None, flags)?;
    init.move_in(mm, ROOM)?;
    init.run("make a namespace", &settle(), Pace::Fast)?;
    Ok(Init(init))
}

/// Bytes of room for the init's few scripts.
const ROOM: usize = 8192;

/// What the init does for its namespace.
fn settle() -> Script {
    let mut script = Script::new();
    let root = script.c_string(b"/");
    let proc = script.c_string(b"proc");
    let at = script.c_string(b"/proc");
    let private = libc::MS_REC | libc::MS_PRIVATE;
    let nr = libc::SYS_mount as u32;
    let none = Arg::Value(0);
    let args = [none, root.into(), none, private.into(), none];
    script.call("make all mounts private", nr, args);
    let args = [proc.into(), at.into(), proc.into(), none, none];
    script.call("mount /proc of the namespace", nr, args);
    script.call("start a session", libc::SYS_setsid as u32, [none; 0]);
    let name = script.c_string(b"icecore-init");
    let set_name = Arg::Value(libc::PR_SET_NAME as u64);
    script.call(
        "take a name",
        libc::SYS_prctl as u32,
        [set_name, name.into()],
    );
    // An ignored SIGCHLD would hide exit statuses.
    let default = script.buffer(32);
    let (signal, len) = (Arg::Value(libc::SIGCHLD as u64), Arg::Value(8));
    let args = [signal, default.into(), none, len];
    script.call("watch for SIGCHLD", libc::SYS_rt_sigaction as u32, args);
    script
}

/// What the init gives up once the task exists.
fn withdraw() -> Script {
    let mut script = Script::new();
    let all = [0, u64::from(u32::MAX), 0];
    script.call("close all descriptors", libc::SYS_close_range as u32, all);
    let root = script.c_string(b"/");
    script.call("change to /", libc::SYS_chdir as u32, [root]);

    script
}

impl Init {
    /// Creates a process for a task without a parent in the image.
    pub(crate) fn create(&mut self, task: &TaskState) -> Result<Child, RestoreError> {
        let args = CloneArgs {
            exit_signal: libc::SIGCHLD as u64,
            ..CloneArgs::default()
        };
        let what = format!("create pid {} in its namespace", task.pid);
        let scratch = self.0.scratch();
        let remote = self.0.create(&what, scratch, Some(task.pid), args)?;
        self.0.descendant(task.pid, remote)
    }

    /// Gives up all of icecore's, once the processes exist.
    pub(crate) fn withdraw(&mut self) -> Result<(), RestoreError> {
        self.0.unmap_all()?;
        self.0
            .run("leave the namespace alone", &withdraw(), Pace::Fast)?;
        Ok(())
    }

    /// Pid of the init as this process sees it.
    pub(crate) fn pid(&self) -> u32 {
        self.0.process.pid
    }

    /// Makes the init ready to reap on its own, `root` being the pid of the
    /// tree's root in the namespace.
    pub(crate) fn prepare(&mut self, root: u32) -> Result<(), RestoreError> {
        let blob = self.0.process.blob()?;
        let ready = self.0.leader.start_at(|registers| {
            registers.rip = blob.init();
            registers.r14 = u64::from(root);
            registers.r15 = blob.script();
        });
        ready.map_err(self.0.process.remote("start the init of the namespace"))
    }

    /// From here on the init lives on if we die.
    pub(crate) fn spare(&self) -> Result<(), RestoreError> {
        let spared = self.0.leader.spare();
        spared.map_err(self.0.process.remote("let the init live"))
    }

    /// Lets the init go.
    pub(crate) fn release(self) -> Result<(), RestoreError> {
        let failed = self.0.process.remote("let the init go");
        self.0.release(None).map_err(failed)
    }
}
