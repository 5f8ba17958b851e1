//! ptrace as we use it: typed tracees, freezing, injection, scripts.

pub mod freeze;
pub mod peek;
pub mod script;

pub use freeze::{Frozen, FrozenTask, FrozenThread};
pub use script::{Arg, Buffer, Call, Outcome, Script, ScriptError};
