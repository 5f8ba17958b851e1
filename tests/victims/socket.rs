//! Sockets and other descriptors that are refused, with what is said of them.

use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::harness::{Stage, Victim};
use crate::regular::text;

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::refused("socket-unix", "within the task, 6 bytes queued", unix),
        Victim::refused(
            "socket-listening",
            "unix stream socket, listening at ",
            listening,
        ),
        Victim::refused(
            "socket-tcp",
            "IPv4 stream socket, connected (127.0.0.1:",
            tcp,
        ),
        Victim::refused(
            "socket-all-at-once",
            "3 things cannot be carried over",
            several,
        ),
    ]
}

/// Connected by name, both ends in the task.
fn unix(stage: &mut Stage) -> Result<(), String> {
    use std::io::Write;
    let path = stage.dir().join("socket");
    let listener = UnixListener::bind(&path).map_err(text("bind"))?;
    let mut one = UnixStream::connect(&path).map_err(text("connect"))?;
    let (two, _) = listener.accept().map_err(text("accept"))?;
    drop(listener);
    one.write_all(b"queued").map_err(text("write"))?;
    while stage.next()? {}
    drop((one, two));
    Ok(())
}

fn listening(stage: &mut Stage) -> Result<(), String> {
    let socket = UnixListener::bind(stage.dir().join("socket")).map_err(text("bind"))?;
    while stage.next()? {}
    drop(socket);
    Ok(())
}

fn tcp(stage: &mut Stage) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(text("bind"))?;
    let address = listener.local_addr().map_err(text("getsockname"))?;
    let one = TcpStream::connect(address).map_err(text("connect"))?;
    let other = listener.accept().map_err(text("accept"))?;
    while stage.next()? {}
    drop((one, other));
    Ok(())
}

fn several(stage: &mut Stage) -> Result<(), String> {
    let open = || std::fs::File::open("/dev/ptmx").map_err(text("/dev/ptmx"));
    let all = (open()?, open()?, open()?);
    while stage.next()? {}
    drop(all);
    Ok(())
}
