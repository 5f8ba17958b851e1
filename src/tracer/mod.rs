//! ptrace as we use it: typed tracees, freezing, injection, scripts.

pub mod allowed;
mod asleep;
mod bpf;
pub mod fault;
pub mod forest;
pub mod freeze;
pub mod guardian;
pub mod inject;
pub mod interrupted;
pub mod keeper;
pub mod memory;
pub mod peek;
pub mod ptrace;
pub mod refuse;
pub mod remote;
mod rest;
mod room;
mod rseq;

pub mod script;
pub mod snapshot;
pub mod stub;
mod tails;
mod timeout;

pub use forest::{Frozen, Zombie};
pub use freeze::{FreezeError, FrozenTask, FrozenThread};
pub use guardian::{Guardian, NAME as GUARDIAN_NAME, Told, Undo};
pub use inject::InjectError;
pub(crate) use script::args;
pub use script::{Arg, Buffer, Call, Outcome, Script, ScriptError};
