//! The ABI between icecore and the code it runs inside other processes.
//!
//! Both blobs run *scripts*: arrays of [`Op`], each one system call with its
//! arguments, its result written back in place. What a dump asks of its target
//! and what a restore does to its child is therefore ordinary safe Rust on the
//! tracer's side; the code inside the other process knows no resource at all.
#![cfg_attr(not(test), no_std)]

/// One system call of a script.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Op {
    /// System call number.
    pub nr: u64,
    /// Arguments; addresses are already those of the process it runs in.
    pub args: [u64; 6],
    /// What the call returned (negative errno on failure).
    pub ret: i64,
    /// [`OP_MUST_SUCCEED`] and friends.
    pub flags: u64,
}

/// A failing call ends the script.
pub const OP_MUST_SUCCEED: u64 = 1;

const _: () = assert!(size_of::<Op>() == 72);
