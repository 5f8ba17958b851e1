//! Sockets and other descriptors that are refused, with what is said of them.

use std::net::{TcpListener, TcpStream};

use crate::harness::{Stage, Victim};
use crate::regular::text;

pub(crate) fn victims() -> Vec<Victim> {
    vec![
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
