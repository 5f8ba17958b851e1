//! Victims: programs that are put to sleep and woken up, one file per
//! resource. This program is both: without `ICECORE_VICTIM` the test runner,
//! with it the victim of that name.
#![allow(clippy::print_stdout, clippy::print_stderr)] // results, and logs of victims

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code)] // its vocabulary is larger than what is said today
mod harness;

mod connection;
mod creds;
mod device;
mod directory;
mod epoll;
mod eventfd;
mod ghost;
mod idle;
mod inet;
mod injection;
mod inotify;
mod kin;
mod leaderless;
mod limits;
mod lock;
mod memfd;
mod memory;
mod pidfd;
mod pipe;
mod prctl;
mod proc_file;
mod regular;
mod sched;
mod seccomp;
mod signalfd;
mod signals;
mod sleeping;
mod socket;
mod sys;
mod tcp;
mod threads;
mod timerfd;
mod timers;
mod tree;
mod unix;
mod unix_name;
mod unix_queue;
mod unix_rights;
mod xstate;

use std::process::ExitCode;

use harness::Victim;

/// All victims, by resource.
fn all() -> Vec<Victim> {
    [
        idle::victims(),
        leaderless::victims(),
        injection::victims(),
        xstate::victims(),
        seccomp::victims(),
        sched::victims(),
        prctl::victims(),
        limits::victims(),
        kin::victims(),
        connection::victims(),
        creds::victims(),
        memory::victims(),
        signals::victims(),
        sleeping::victims(),
        threads::victims(),
        timers::victims(),
        device::victims(),
        directory::victims(),
        epoll::victims(),
        eventfd::victims(),
        ghost::victims(),
        inet::victims(),
        inotify::victims(),
        lock::victims(),
        memfd::victims(),
        pidfd::victims(),
        pipe::victims(),
        proc_file::victims(),
        regular::victims(),
        signalfd::victims(),
        socket::victims(),
        tcp::victims(),
        unix::victims(),
        unix_name::victims(),
        unix_queue::victims(),
        unix_rights::victims(),
        timerfd::victims(),
        tree::victims(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn main() -> ExitCode {
    match std::env::var("ICECORE_VICTIM") {
        Ok(name) => harness::stage::play(&all(), &name),
        Err(_) => harness::run(all()),
    }
}
