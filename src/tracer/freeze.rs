//! A frozen forest of tasks.

use std::time::Duration;

use icecore_images::thread::Registers;

use super::script::{Outcome, Script, ScriptError};

/// The target, frozen. Dropping it lets everything go on unharmed.
#[derive(Debug)]
pub struct Frozen {
    /// Tasks, the root first, parents before children.
    pub tasks: Vec<FrozenTask>,
}

/// A frozen task.
#[derive(Debug)]
pub struct FrozenTask {
    /// Thread-group id.
    pub pid: u32,
    /// The signal that stopped it, if job control had stopped it before.
    pub stopped: Option<u32>,
    /// Its live threads, the leader first where it is alive.
    pub threads: Vec<FrozenThread>,
}

/// A frozen thread.
#[derive(Debug)]
pub struct FrozenThread {
    /// Thread id.
    pub tid: u32,
    /// Registers at the freeze, raw.
    pub registers: Registers,
    /// How long it had been asleep in a system call, where it was and
    /// that could be read before the freeze.
    pub slept: Option<Duration>,
}

/// Why a script could not be run inside a task, or did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InjectError {
    /// A call of the script failed.
    #[error("inside thread {tid}")]
    Script {
        /// The thread.
        tid: u32,
        /// The call.
        #[source]
        source: ScriptError,
    },
}

impl FrozenTask {
    /// Runs `script` inside the task, on its thread number `thread`, with
    /// everything put back afterwards.
    pub fn run(&mut self, thread: usize, script: &Script) -> Result<Outcome, InjectError> {
        let _ = (thread, script);
        unimplemented!("injection")
    }
}
