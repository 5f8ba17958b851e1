//! A victim with sockets: a TCP connection to itself that must go on passing
//! data, and a UDP socket with datagrams queued. What TCP_REPAIR, locks and peek
//! offsets would leave behind it notices.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use icecore::kernel::socket_option;

struct Sockets {
    one: TcpStream,
    other: TcpStream,
    queued: UdpSocket,
}

static SOCKETS: OnceLock<Sockets> = OnceLock::new();

pub(crate) fn speak() -> Result<(), String> {
    let sockets = match SOCKETS.get() {
        Some(sockets) => sockets,
        None => {
            let sockets = open().map_err(|e| format!("open sockets: {e}"))?;
            SOCKETS.get_or_init(|| sockets)
        }
    };
    for (mut from, mut to) in [
        (&sockets.one, &sockets.other),
        (&sockets.other, &sockets.one),
    ] {
        let mut room = [0; 5];
        soon("write", || from.write_all(b"alive"))?;
        soon("read", || to.read_exact(&mut room))?;
        if &room != b"alive" {
            return Err(format!("{room:?} arrived"));
        }
    }
    soon("look at options", || {
        let offset = socket_option::get(&sockets.queued, libc::SO_PEEK_OFF)?;
        // As the standard library has set it for the listening socket.
        let reuse = socket_option::get(&sockets.other, libc::SO_REUSEADDR)?;
        match (offset, reuse) {
            (-1, 1) => Ok(()),
            other => Err(std::io::Error::other(format!(
                "peek offset and reuse of addresses are {other:?}"
            ))),
        }
    })
}

/// The kernel lets the target go a moment before the guardian has put
/// everything back: until then a socket may be in repair. Not for long.
fn soon(what: &str, mut act: impl FnMut() -> std::io::Result<()>) -> Result<(), String> {
    let start = Instant::now();
    loop {
        match act() {
            Ok(()) => return Ok(()),
            Err(e) if start.elapsed() > Duration::from_secs(5) => {
                return Err(format!("{what}: {e}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn open() -> std::io::Result<Sockets> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    let (other, _) = listener.accept()?;
    for stream in [&one, &other] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    }
    let queued = UdpSocket::bind("127.0.0.1:0")?;
    for word in ["first", "second"] {
        queued.send_to(word.as_bytes(), queued.local_addr()?)?;
    }
    Ok(Sockets { one, other, queued })
}
