//! What integration tests share: running icecore, holding a process that is
//! put to sleep, and looking at it from outside.
#![allow(dead_code)] // each test target uses another part of it

pub(crate) mod icecore;
pub(crate) mod memory_group;
pub(crate) mod outside;
pub(crate) mod perl;
pub(crate) mod reencode;
pub(crate) mod target;
pub(crate) mod tree;
pub(crate) mod wait;
