//! AF_UNIX sockets between relatives, and who is shown at their other ends.

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use rustix::net::sockopt::socket_peercred;

use super::family::{child, clone, end, wait_for};
use crate::harness::{Stage, Victim};
use crate::regular::text;
use crate::sys::same;

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("tree-socketpair", pair),
        Victim::new("tree-server", server),
        Victim::new("tree-datagrams", datagrams),
        Victim::new("unix-peer-credentials", credentials),
        Victim::new("unix-backlog-of-a-relative", backlog),
    ]
}

fn shown(socket: &impl std::os::fd::AsFd) -> Result<u32, String> {
    let shown = socket_peercred(socket).map_err(text("SO_PEERCRED"))?;
    Ok(shown.pid.as_raw_nonzero().get().cast_unsigned())
}

/// Each has an end; one is had by both.
fn pair(stage: &mut Stage) -> Result<(), String> {
    let (mut mine, mut theirs) = UnixStream::pair().map_err(text("socketpair"))?;
    let common = mine.try_clone().map_err(text("dup"))?;
    let mut relative = child(move || {
        Ok(Box::new(move || {
            let mut bytes = [0; 9];
            theirs.read_exact(&mut bytes).map_err(text("read"))?;
            same("question", &bytes, b"question!")?;
            (&common).write_all(b"common").map_err(text("write"))?;
            theirs.write_all(b"answer").map_err(text("write"))?;
            let mut bytes = [0; 6];
            theirs.read_exact(&mut bytes).map_err(text("read"))?;
            same("from the other end", &bytes, b"common")
        }))
    })?;
    loop {
        mine.write_all(b"question!").map_err(text("write"))?;
        if !stage.next()? {
            return Ok(());
        }
        relative.check()?;
        let mut bytes = [0; 6];
        mine.read_exact(&mut bytes).map_err(text("read"))?;
        same("answer", &bytes, b"answer")?;
    }
}

/// A child serves; both see who the other is.
fn server(stage: &mut Stage) -> Result<(), String> {
    let path = stage.dir().join("server");
    let (there, me) = (path.clone(), std::process::id());
    let mut relative = child(move || {
        let listener = UnixListener::bind(&there).map_err(text("bind"))?;
        let mut accepted = None;
        Ok(Box::new(move || {
            let accepted = match &mut accepted {
                Some(accepted) => accepted,
                none => none.insert(listener.accept().map_err(text("accept"))?.0),
            };
            same("client", &shown(accepted)?, &me)?;
            accepted.write_all(b"served").map_err(text("write"))
        }))
    })?;
    let mut client = UnixStream::connect(&path).map_err(text("connect"))?;
    relative.check()?;
    while stage.next()? {
        let mut bytes = [0; 6];
        client.read_exact(&mut bytes).map_err(text("read"))?;
        same("served", &bytes, b"served")?;
        same("server", &shown(&client)?, &relative.pid)?;
        relative.check()?;
    }
    Ok(())
}

/// Several send to one.
fn datagrams(stage: &mut Stage) -> Result<(), String> {
    let path = stage.dir().join("receiver");
    let receiver = UnixDatagram::bind(&path).map_err(text("bind"))?;
    let mut relatives = Vec::new();
    for i in 0..2 {
        let path = path.clone();
        relatives.push(child(move || {
            let sender = UnixDatagram::unbound().map_err(text("socket"))?;
            sender.connect(&path).map_err(text("connect"))?;
            Ok(Box::new(move || {
                sender.send(&[i]).map(drop).map_err(text("send"))
            }))
        })?);
    }
    loop {
        for relative in &mut relatives {
            relative.check()?;
        }
        if !stage.next()? {
            return Ok(());
        }
        for i in 0..2 {
            let mut byte = [9; 2];
            let n = receiver.recv(&mut byte).map_err(text("recv"))?;
            same("who", &(n, byte[0]), &(1, i))?;
        }
    }
}

/// Of the task itself, of a child that has ended, of another user.
fn credentials(stage: &mut Stage) -> Result<(), String> {
    let path = stage.dir().join("server");
    let listener = UnixListener::bind(&path).map_err(text("bind"))?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .map_err(text("chmod"))?;
    let (mine, _other) = UnixStream::pair().map_err(text("socketpair"))?;
    let pid = clone(0)?;
    if pid == 0 {
        let nobody = rustix::process::Uid::from_raw(65534);
        let left = rustix::thread::set_thread_uid(nobody);
        let connected = left.map(|()| UnixStream::connect(&path).map(|s| (&s).write_all(b"left")));
        end(i32::from(!matches!(connected, Ok(Ok(Ok(()))))));
    }
    same("child", &wait_for(pid)?, &0)?;
    let (left, _) = listener.accept().map_err(text("accept"))?;
    let me = std::process::id();
    while stage.next()? {
        same("own", &shown(&mine)?, &me)?;
        same("listener", &shown(&listener)?, &me)?;
        same("one that ended", &shown(&left)?, &pid)?;
        let cred = socket_peercred(&left).map_err(text("SO_PEERCRED"))?;
        same("its user", &cred.uid.as_raw(), &65534)?;
        let client = UnixStream::connect(&path).map_err(text("connect"))?;
        same("of the listener", &shown(&client)?, &me)?;
        listener.accept().map_err(text("accept"))?;
    }
    let mut bytes = [0; 4];
    (&left).read_exact(&mut bytes).map_err(text("read"))?;
    same("what it left", &bytes, b"left")
}

/// A child waits to be accepted.
fn backlog(stage: &mut Stage) -> Result<(), String> {
    let path = stage.dir().join("server");
    let listener = UnixListener::bind(&path).map_err(text("bind"))?;
    let mut relative = child(move || {
        let connect = move || UnixStream::connect(&path).map_err(text("connect"));
        let mut client = connect()?;
        Ok(Box::new(move || {
            let mut byte = [0; 1];
            client.read_exact(&mut byte).map_err(text("read"))?;
            client = connect()?;
            Ok(())
        }))
    })?;
    while stage.next()? {
        let (mut accepted, _) = listener.accept().map_err(text("accept"))?;
        same("client", &shown(&accepted)?, &relative.pid)?;
        accepted.write_all(b"x").map_err(text("write"))?;
        relative.check()?;
    }
    Ok(())
}
