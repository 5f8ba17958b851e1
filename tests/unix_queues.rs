//! icecore killed while it looks at queues of sockets: the target's sockets are
//! as they were, whatever the moment.

mod common;

use std::error::Error;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::target::Target;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// A program that has sent itself records and a stream.
fn sender(dir: &Path) -> Result<Target, Box<dyn Error>> {
    let program = "use Socket; my @all; \
         for my $type (SOCK_DGRAM, SOCK_STREAM) { \
             socketpair my $one, my $other, AF_UNIX, $type, 0 or die; \
             push @all, $one, $other; \
             defined send $one, $_, 0 or die for 'first', 'second', 'third'; \
         } \
         mkdir 'ready' or die; sleep 300";
    let mut command = Command::new("setsid");
    let null = || Stdio::null();
    command.args(["perl", "-e", program]).current_dir(dir);
    command.stdin(null()).stdout(null()).stderr(null());
    let target = Target::spawn(&mut command)?;
    common::wait::until("the records", common::wait::LIMIT, || {
        Ok(dir.join("ready").is_dir().then_some(()))
    })?;
    Ok(target)
}

/// Its receiving ends.
fn receivers(target: &Target) -> Result<[OwnedFd; 2], Box<dyn Error>> {
    let pid = Pid::from_raw(target.pid().cast_signed()).ok_or("pid 0")?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let get = |fd| pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty());
    Ok([get(4)?, get(6)?])
}

/// What is seen twice in a row is seen without an offset.
fn as_at_first(socket: &OwnedFd) -> Result<bool, Box<dyn Error>> {
    let mut seen = [Vec::new(), Vec::new()];
    for seen in &mut seen {
        let mut bytes = [0; 100];
        let how = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        // Nothing is seen from beyond the end.
        let n = match recv(socket, &mut bytes[..], how) {
            Err(Errno::AGAIN) => 0,
            got => got?.0,
        };
        seen.extend(&bytes[..n]);
    }
    let first = seen.iter().all(|seen| seen.starts_with(b"first"));
    Ok(first && !sockopt::socket_passcred(socket)?)
}

#[test]
fn killed_at_every_step_they_are_as_they_were() -> Result<(), Box<dyn Error>> {
    let base = tempfile::tempdir()?;
    let mut target = sender(base.path())?;
    let mut killed = 0;
    loop {
        let images = base.path().join(format!("image-{killed}"));
        let dump = target.dump_command(&images).arg("-R");
        let done = dump
            .env("ICECORE_FAULT", format!("queue:{}", killed + 1))
            .run()?;
        if done.status.signal().is_none() {
            done.expect_success()?;
            break;
        }
        killed += 1;
        target.alive()?;
        common::wait::until("the guardian", common::wait::LIMIT, || {
            // What the guardian holds it holds until it has set it back.
            let held = receivers(&target).map_err(|e| e.to_string())?;
            let back = held.iter().map(|socket| as_at_first(socket));
            let back: Result<Vec<bool>, _> = back.collect();
            Ok(back
                .map_err(|e| e.to_string())?
                .into_iter()
                .all(|b| b)
                .then_some(()))
        })?;
    }
    // Two sockets, two options each way, records.
    assert!(killed > 12, "killed {killed} times only");
    Ok(())
}
