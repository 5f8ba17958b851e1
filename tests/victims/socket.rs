//! Sockets and other descriptors that are refused, with what is said of them.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::harness::{Stage, Victim};
use crate::regular::text;

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::refused("socket-unix", "unix stream socket, connected", unix),
        Victim::refused("socket-queued", "within the task, 6 bytes queued", unix),
        Victim::refused(
            "socket-listening",
            "unix stream socket, listening at ",
            listening,
        ),
        Victim::refused(
            "socket-tcp",
            "IPv4 stream socket, listening at 127.0.0.1:",
            tcp,
        ),
        Victim::refused(
            "socket-all-at-once",
            "3 things cannot be carried over",
            several,
        ),
    ]
}

fn unix(stage: &mut Stage) -> Result<(), String> {
    use std::io::Write;
    let (one, mut two) = UnixStream::pair().map_err(text("socketpair"))?;
    two.write_all(b"queued").map_err(text("write"))?;
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
    let socket = TcpListener::bind("127.0.0.1:0").map_err(text("bind"))?;
    while stage.next()? {}
    drop(socket);
    Ok(())
}

fn several(stage: &mut Stage) -> Result<(), String> {
    let tcp = TcpListener::bind("127.0.0.1:0").map_err(text("bind"))?;
    let udp = UdpSocket::bind("127.0.0.1:0").map_err(text("bind"))?;
    let file = std::fs::File::open("/dev/ptmx").map_err(text("/dev/ptmx"))?;
    while stage.next()? {}
    drop((tcp, udp, file));
    Ok(())
}
