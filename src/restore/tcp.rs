//! Connections of TCP, and those that have ended.
//!
//! Ordering requirements:
//! - a connection is made in repair, in which nothing is sent, and stays so
//!   until its task is about to run (`go_on`): a restore that fails leaves it as
//!   it was, the lock on it included;
//! - both ends leave repair before either sends;
//! - locks are taken away when no socket is in repair any more, and before
//!   anything is sent;
//! - what was being sent comes before the end of sending.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use icecore_images::files::{FileKind, OpenFile};
use icecore_images::inet::{InetRole, InetSocketState};
use icecore_images::tcp::{TcpAgreement, TcpConnection, TcpQueue, TcpWindow};
use rustix::net::{SendFlags, Shutdown, sockopt};

use super::descriptors::Opened;
use super::socket_state::{self, Part};
use super::{RestoreContext, descriptor_plan, raw_packet};
use crate::error::RestoreError;
use crate::kernel::{nft, socket_option, socket_options};

const TCP: i32 = libc::IPPROTO_TCP;
const TCP_MAXSEG: i32 = 2;
const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_REPAIR_OPTIONS: i32 = 22;
const TCP_TIMESTAMP: i32 = 24;
const TCP_REPAIR_WINDOW: i32 = 29;
const OFF: i32 = -1;
const NO_QUEUE: i32 = 0;
const RECV_QUEUE: i32 = 1;
const SEND_QUEUE: i32 = 2;
const SEND_SHUTDOWN: u8 = 2;

fn set(socket: &OwnedFd, option: i32, value: i32) -> io::Result<()> {
    socket_options::set(socket, TCP, option, &value.to_ne_bytes())
}

/// Connects a fresh socket as it was, in repair.
pub(super) fn connect(
    state: &InetSocketState,
    c: &TcpConnection,
    socket: &OwnedFd,
) -> io::Result<()> {
    set(socket, TCP_REPAIR, 1)?;
    for (queue, start) in [(SEND_QUEUE, &c.sending), (RECV_QUEUE, &c.receiving)] {
        set(socket, TCP_REPAIR_QUEUE, queue)?;
        set(socket, TCP_QUEUE_SEQ, start.sequence as i32)?;
    }
    set(socket, TCP_REPAIR_QUEUE, NO_QUEUE)?;
    if let Some(local) = state.local {
        rustix::net::bind(socket, &SocketAddr::from(local))?;
    }
    // How much goes into a segment is reckoned while connecting only, from what
    // the other end is thought to take: told later it stays 536 bytes.
    set(socket, TCP_MAXSEG, segment(&c.agreed))?;
    rustix::net::connect(socket, &SocketAddr::from(c.peer))?;
    set(socket, TCP_MAXSEG, 0)?;
    agree(socket, &c.agreed)?;
    fill(socket, &c.receiving)?;
    window(socket, c)
}

/// The largest segment the other end takes, as far as it can be asked for.
fn segment(agreed: &TcpAgreement) -> i32 {
    /// TCP_MIN_MSS, MAX_TCP_WINDOW.
    const POSSIBLE: (i32, i32) = (88, 32767);
    i32::from(agreed.segment).clamp(POSSIBLE.0, POSSIBLE.1)
}

fn agree(socket: &OwnedFd, agreed: &TcpAgreement) -> io::Result<()> {
    const SEGMENT: u32 = 2;
    const SCALE: u32 = 3;
    const SELECTIVE: u32 = 4;
    const TIMESTAMPS: u32 = 8;
    let mut options = vec![(SEGMENT, u32::from(agreed.segment))];
    if let Some((sending, receiving)) = agreed.scale {
        options.push((SCALE, u32::from(sending) | u32::from(receiving) << 16));
    }
    if agreed.selective {
        options.push((SELECTIVE, 0));
    }
    if agreed.timestamp.is_some() {
        options.push((TIMESTAMPS, 0));
    }
    let words = options.into_iter().flat_map(|(code, value)| [code, value]);
    let bytes: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
    socket_options::set(socket, TCP, TCP_REPAIR_OPTIONS, &bytes)?;
    match agreed.timestamp {
        Some(stamp) => set(socket, TCP_TIMESTAMP, stamp as i32),
        None => Ok(()),
    }
}

/// Puts back what was received.
fn fill(socket: &OwnedFd, queue: &TcpQueue) -> io::Result<()> {
    const PIECE: usize = 32 << 10;
    if queue.data.0.is_empty() {
        return Ok(());
    }
    room(socket, libc::SO_RCVBUFFORCE, queue)?;
    set(socket, TCP_REPAIR_QUEUE, RECV_QUEUE)?;
    for piece in queue.data.0.chunks(PIECE) {
        let sent = rustix::net::send(socket, piece, SendFlags::DONTWAIT)?;
        if sent != piece.len() {
            return Err(io::Error::other("what it had received does not fit"));
        }
    }
    set(socket, TCP_REPAIR_QUEUE, NO_QUEUE)
}

/// Makes a buffer large enough for a queue; its size is put right in the end.
fn room(socket: &OwnedFd, option: i32, queue: &TcpQueue) -> io::Result<()> {
    let needed = queue.data.0.len().saturating_mul(2) + (256 << 10);
    let needed = i32::try_from(needed).unwrap_or(i32::MAX / 2);
    socket_option::set(socket, option, needed)
}

/// The window. The end of the other's sending, if it has come, is received anew.
fn window(socket: &OwnedFd, c: &TcpConnection) -> io::Result<()> {
    let TcpWindow {
        update,
        sending,
        largest,
        receiving,
        said,
    } = c.window;
    let next = next(c);
    // As it is compared: the later one of two numbers is less than half a
    // turn ahead.
    let later = |a: u32, b: u32| (a.wrapping_sub(b) as i32) > 0;
    let said = if later(said, next) { next } else { said };
    let update = if later(update, next) { next } else { update };
    let words = [update, sending, largest.max(sending), receiving, said];
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    socket_options::set(socket, TCP, TCP_REPAIR_WINDOW, &bytes)
}

/// Sequence number of what comes next from the other end.
fn next(c: &TcpConnection) -> u32 {
    let len = c.receiving.data.0.len() as u32;
    c.receiving.sequence.wrapping_add(len)
}

/// A connection of the image.
struct Live<'a> {
    file: &'a OpenFile,
    state: &'a InetSocketState,
    c: &'a TcpConnection,
    socket: &'a OwnedFd,
}

/// Lets all connections go on: right before the tasks do.
pub(super) fn go_on(ctx: &RestoreContext<'_>, opened: &Opened) -> Result<(), RestoreError> {
    let all: Vec<Live<'_>> = ctx
        .image
        .files
        .iter()
        .filter_map(|file| live(file, opened))
        .collect();
    let each = |step: fn(&Live<'_>) -> io::Result<()>| {
        all.iter().try_for_each(|live| {
            step(live).map_err(|source| RestoreError::Rebuild {
                what: descriptor_plan::name(live.file),
                source,
            })
        })
    };
    each(|live| set(live.socket, TCP_REPAIR, OFF))?;
    let locks: BTreeSet<&[u8]> = all.iter().map(|live| &live.c.lock.0[..]).collect();
    for lock in locks.into_iter().filter(|lock| !lock.is_empty()) {
        unlock(lock)?;
    }
    each(send)?;
    each(end)?;
    each(|live| {
        socket_state::set(live.socket, &live.state.socket, Part::Buffers)?;
        keep_promise(live.socket, &live.c.window)?;
        socket_state::set(live.socket, &live.state.socket, Part::Last)
    })
}

/// What was received may take more memory now than it did. The other end may
/// still send as much as it was told: what then has no room is dropped, and with
/// it every acknowledgement that comes after it, for minutes. So the buffer is
/// made larger where it would be too small for that.
fn keep_promise(socket: &OwnedFd, window: &TcpWindow) -> io::Result<()> {
    let received = i64::from(super::inet::received(socket)?);
    let needed = received + 2 * i64::from(window.receiving);
    let has = socket_options::number(socket, libc::SOL_SOCKET, libc::SO_RCVBUF)?;
    if received == 0 || needed <= i64::from(has.unwrap_or(0)) {
        return Ok(());
    }
    // The kernel doubles what it is given.
    let half = i32::try_from(needed / 2).unwrap_or(i32::MAX / 2);
    socket_option::set(socket, libc::SO_RCVBUFFORCE, half)
}

fn live<'a>(file: &'a OpenFile, opened: &'a Opened) -> Option<Live<'a>> {
    let FileKind::Inet(state) = &file.kind else {
        return None;
    };
    let InetRole::Connection(c) = &state.role else {
        return None;
    };
    let socket = opened.fd(file.id)?;
    Some(Live {
        file,
        state,
        c,
        socket,
    })
}

fn unlock(table: &[u8]) -> Result<(), RestoreError> {
    let name = CString::new(table).map_err(io::Error::from);
    let unlocked = name.and_then(|name| nft::unlock(&name));
    unlocked.map_err(|source| RestoreError::Rebuild {
        what: format!("nftables table {}", String::from_utf8_lossy(table)),
        source,
    })
}

/// Sends what was not acknowledged; the other end drops what it has already.
fn send(live: &Live<'_>) -> io::Result<()> {
    let data = &live.c.sending.data.0;
    if data.is_empty() {
        return Ok(());
    }
    room(live.socket, libc::SO_SNDBUFFORCE, &live.c.sending)?;
    let how = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let mut rest = &data[..];
    while !rest.is_empty() {
        let sent = rustix::net::send(live.socket, rest, how)?;
        rest = rest.get(sent..).unwrap_or_default();
    }
    Ok(())
}

/// The ends of sending and receiving. An other end in the image says its end
/// itself; for one outside, which has said so and does not say it again, we do.
fn end(live: &Live<'_>) -> io::Result<()> {
    let c = live.c;
    if c.shutdown & SEND_SHUTDOWN != 0 {
        rustix::net::shutdown(live.socket, Shutdown::Write)?;
    }
    if c.other_is_done && c.other.is_none() {
        end_of_other(live)?;
    } else if c.shutdown & !SEND_SHUTDOWN != 0 && !c.other_is_done {
        rustix::net::shutdown(live.socket, Shutdown::Read)?;
    }
    Ok(())
}

/// Says in the other end's name that it sends no more.
fn end_of_other(live: &Live<'_>) -> io::Result<()> {
    let Some(local) = live.state.local.map(SocketAddr::from) else {
        return Ok(());
    };
    let peer = SocketAddr::from(live.c.peer);
    let acknowledged = live.c.sending.sequence;
    raw_packet::end_of_stream(peer, local, next(live.c), acknowledged)?;
    // TCP_CLOSE_WAIT, or what comes after it.
    within(|| {
        let info = socket_options::get(live.socket, TCP, 11)?.unwrap_or_default();
        let state = info.first().copied().unwrap_or(0);
        Ok(matches!(state, 7 | 8 | 9 | 11))
    })
}

/// Waits for something that happens at once, or not at all.
fn within(mut happened: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let start = Instant::now();
    while !happened()? {
        if start.elapsed() > PATIENCE {
            return Err(io::Error::other(
                "a packet of ours did not arrive: is there a firewall?",
            ));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// A connection that has ended: `queue` can be read, then there is an end of
/// file; writing gives EPIPE. It is made on the loopback interface and cut off,
/// so that no address is left of it.
pub(super) fn ended(v6: bool, socket: &OwnedFd, queue: &[u8]) -> io::Result<()> {
    let here: IpAddr = match v6 {
        true => Ipv6Addr::LOCALHOST.into(),
        false => Ipv4Addr::LOCALHOST.into(),
    };
    let listener = TcpListener::bind(SocketAddr::new(here, 0))?;
    let everything = TcpQueue {
        sequence: 0,
        data: queue.to_vec().into(),
    };
    room(socket, libc::SO_RCVBUFFORCE, &everything)?;
    rustix::net::connect(socket, &listener.local_addr()?)?;
    let own = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
    let other = accept(&listener, own)?;
    room(
        &OwnedFd::from(other.try_clone()?),
        libc::SO_SNDBUFFORCE,
        &everything,
    )?;
    other.set_nonblocking(true)?;
    io::Write::write_all(&mut &other, queue)?;
    within(|| Ok(rustix::io::ioctl_fionread(socket)? == queue.len() as u64))?;
    // Cut off, not ended: it leaves no port behind.
    sockopt::set_socket_linger(&other, Some(Duration::ZERO))?;
    drop(other);
    within(|| Ok(sockopt::socket_error(socket.as_fd())?.is_err()))
}

/// The connection of ours among those that may come.
fn accept(listener: &TcpListener, own: SocketAddr) -> io::Result<TcpStream> {
    loop {
        let (stream, from) = listener.accept()?;
        if from == own {
            return Ok(stream);
        }
    }
}
