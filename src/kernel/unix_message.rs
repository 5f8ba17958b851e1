//! Messages of AF_UNIX sockets with all that travels with them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Descriptors of one message: SCM_MAX_FD.
const MAX_FDS: usize = 253;
/// Since Linux 6.5.
const SCM_PIDFD: i32 = 4;
const SCM_SECURITY: i32 = 3;
/// Room for all kinds of control messages at once, words.
const CONTROL_WORDS: usize = 256;

/// A message as recvmsg(2) tells of it.
#[derive(Debug, Default)]
pub struct Message {
    /// What was received of it.
    pub bytes: Vec<u8>,
    /// SCM_RIGHTS: descriptors of ours from now on.
    pub rights: Vec<OwnedFd>,
    /// SCM_CREDENTIALS: pid, uid, gid.
    pub credentials: Option<(i32, u32, u32)>,
    /// SCM_SECURITY: a label, without a NUL at its end.
    pub label: Option<Vec<u8>>,
    /// The sender's name, without the family; none: it has none.
    pub sender: Option<Vec<u8>>,
    /// MSG_TRUNC, MSG_CTRUNC, MSG_OOB.
    pub flags: i32,
}

/// Receives with MSG_DONTWAIT, MSG_CMSG_CLOEXEC and `flags`; at most `len`
/// bytes. `Ok(None)`: nothing is there. Descriptors that came with it are
/// ours; those of SCM_PIDFD are closed.
pub fn receive(socket: impl AsFd, len: usize, flags: i32) -> io::Result<Option<Message>> {
    let mut bytes = vec![0_u8; len];
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: len,
    };
    // SAFETY: an address of zeros is valid.
    let mut name: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    // SAFETY: so is a message header.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = size_of_val(&name) as u32;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    let how = flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header points to buffers of the sizes it tells, all alive.
    let got = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, how) };
    if got < 0 {
        let e = io::Error::last_os_error();
        return match e.kind() {
            io::ErrorKind::WouldBlock => Ok(None),
            _ => Err(e),
        };
    }
    bytes.truncate(got as usize);
    let mut message = Message {
        bytes,
        flags: header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC | libc::MSG_OOB),
        sender: own_name(&name, header.msg_namelen),
        ..Message::default()
    };
    let used = header.msg_controllen.min(size_of_val(&control));
    let all: Vec<u8> = control.iter().flat_map(|w| w.to_ne_bytes()).collect();
    // SAFETY: the kernel has just written these control messages.
    unsafe { take_control(&all[..used], &mut message) };
    Ok(Some(message))
}

/// # Safety
/// Descriptors in `control` must be ours and nobody else's.
unsafe fn take_control(mut control: &[u8], message: &mut Message) {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let int = |b: &[u8]| b.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
    while control.len() >= HEADER {
        let len = control
            .first_chunk()
            .map_or(0, |b| usize::from_ne_bytes(*b));
        let (level, kind) = (int(&control[8..]), int(&control[12..]));
        let Some(data) = control.get(HEADER..len) else {
            return;
        };
        // SAFETY: as the caller promises.
        let fd = |b: &[u8]| unsafe { OwnedFd::from_raw_fd(int(b)) };
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                message.rights.extend(data.chunks_exact(4).map(fd));
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if data.len() >= 12 => {
                let (uid, gid) = (int(&data[4..]) as u32, int(&data[8..]) as u32);
                message.credentials = Some((int(data), uid, gid));
            }
            (libc::SOL_SOCKET, SCM_PIDFD) if int(data) >= 0 => drop(fd(data)),
            (libc::SOL_SOCKET, SCM_SECURITY) => {
                let label = data.strip_suffix(b"\0").unwrap_or(data);
                message.label = Some(label.to_vec());
            }
            _ => {}
        }
        control = control.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
}

/// The name in an address of `len` bytes; `None`: it has none.
fn own_name(address: &libc::sockaddr_un, len: u32) -> Option<Vec<u8>> {
    let len = (len as usize).checked_sub(size_of::<libc::sa_family_t>())?;
    let name = address.sun_path.get(..len).unwrap_or(&address.sun_path);
    let bytes: Vec<u8> = name.iter().map(|&c| c as u8).collect();
    match bytes.first() {
        None => None,
        Some(0) => Some(bytes),
        // A path ends with a NUL, which is counted.
        Some(_) => Some(bytes.split(|&b| b == 0).next()?.to_vec()),
    }
}

/// What getsockname(2) tells: an abstract name begins with a NUL; `None`: not
/// bound.
pub fn name(socket: impl AsFd) -> io::Result<Option<Vec<u8>>> {
    asked(socket, libc::getsockname)
}

/// What getpeername(2) tells; ENOTCONN where there is no other end.
pub fn peer_name(socket: impl AsFd) -> io::Result<Option<Vec<u8>>> {
    asked(socket, libc::getpeername)
}

type Ask = unsafe extern "C" fn(i32, *mut libc::sockaddr, *mut u32) -> i32;

fn asked(socket: impl AsFd, ask: Ask) -> io::Result<Option<Vec<u8>>> {
    // SAFETY: an address of zeros is valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&address) as u32;
    let to = (&raw mut address).cast();
    // SAFETY: the kernel writes at most `len` bytes to `address`.
    match unsafe { ask(socket.as_fd().as_raw_fd(), to, &raw mut len) } {
        0 => Ok(own_name(&address, len)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Length of the messages that lie whole in the first `len` bytes of a stream
/// (from its peek offset on), where `len` ends with the last byte of a message.
///
/// The buffer is one byte too short for the last message and ends where no
/// memory is: the kernel gives up at that message and tells of those before.
pub fn before_last(socket: impl AsFd, len: usize) -> io::Result<usize> {
    let page = rustix::param::page_size();
    let whole = len.next_multiple_of(page);
    // SAFETY: a new mapping.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            whole + page,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the last page of that mapping; nobody uses it.
    let guarded = unsafe { libc::mprotect(at.byte_add(whole), page, libc::PROT_NONE) };
    let found = match guarded {
        // SAFETY: `len - 1` bytes before the page without access are ours.
        0 => unsafe {
            faulting(
                socket.as_fd().as_raw_fd(),
                at.byte_add(whole + 1 - len),
                len,
            )
        },
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: the mapping made above, not used any more.
    unsafe { libc::munmap(at, whole + page) };
    found
}

/// # Safety
/// `at` must lead to memory that may be written, up to where there is none.
unsafe fn faulting(socket: i32, at: *mut libc::c_void, len: usize) -> io::Result<usize> {
    let how = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: what is no memory the kernel does not write.
    match unsafe { libc::recv(socket, at, len, how) } {
        -1 => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::EFAULT) => Ok(0),
            e => Err(e),
        },
        n => Ok(n as usize),
    }
}

/// A message to be sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outgoing<'a> {
    /// Its data.
    pub bytes: &'a [u8],
    /// Numbers of descriptors of this process that go with it.
    pub rights: &'a [i32],
    /// Credentials that go with it: pid, uid, gid.
    pub credentials: Option<(i32, u32, u32)>,
    /// Whom it is sent to, unless the socket is connected to it.
    pub to: Option<&'a [u8]>,
    /// MSG_OOB or 0.
    pub flags: i32,
}

/// Sends a message whole, without waiting and without SIGPIPE.
pub fn send(socket: impl AsFd, message: &Outgoing<'_>) -> io::Result<()> {
    with_header(message, |header, how| {
        // SAFETY: the header points to what is alive, with its size; nothing of
        // it is written.
        let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), header, how) };
        match usize::try_from(sent) {
            Err(_) => Err(io::Error::last_os_error()),
            Ok(n) if n == message.bytes.len() => Ok(()),
            Ok(_) => Err(io::Error::other("it does not fit")),
        }
    })
}

/// Runs `work` with a header and flags for sendmsg(2), while all that the header
/// points to is alive.
pub(super) fn with_header<T>(
    message: &Outgoing<'_>,
    work: impl FnOnce(*const libc::msghdr, i32) -> io::Result<T>,
) -> io::Result<T> {
    let mut control = control(message)?;
    let mut part = libc::iovec {
        iov_base: message.bytes.as_ptr().cast_mut().cast(),
        iov_len: message.bytes.len(),
    };
    let (mut address, len) = address(message.to.unwrap_or_default())?;
    // SAFETY: a message header of zeros is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    if message.to.is_some() {
        header.msg_name = (&raw mut address).cast();
        header.msg_namelen = len;
    }
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if !control.is_empty() {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = control.len() * 8;
    }
    let how = message.flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    work(&raw const header, how)
}

fn control(message: &Outgoing<'_>) -> io::Result<Vec<u64>> {
    let mut bytes = Vec::new();
    let mut put = |kind: i32, data: &[u8]| {
        bytes.extend((size_of::<libc::cmsghdr>() + data.len()).to_ne_bytes());
        bytes.extend(libc::SOL_SOCKET.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    };
    if message.rights.len() > MAX_FDS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if !message.rights.is_empty() {
        let numbers: Vec<u8> = message
            .rights
            .iter()
            .flat_map(|n| n.to_ne_bytes())
            .collect();
        put(libc::SCM_RIGHTS, &numbers);
    }
    if let Some((pid, uid, gid)) = message.credentials {
        let numbers = [pid as u32, uid, gid].map(u32::to_ne_bytes);
        put(libc::SCM_CREDENTIALS, numbers.as_flattened());
    }
    let words = bytes.chunks_exact(8);
    Ok(words
        .map(|w| w.try_into().map_or(0, u64::from_ne_bytes))
        .collect())
}

/// An address and its length. A path is given without a NUL at its end.
pub fn address(name: &[u8]) -> io::Result<(libc::sockaddr_un, u32)> {
    // SAFETY: an address of zeros is valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let room = address.sun_path.get_mut(..name.len());
    let room = room.ok_or(io::ErrorKind::InvalidInput)?;
    for (to, from) in room.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    let len = size_of::<libc::sa_family_t>() + name.len();
    Ok((address, len as u32))
}

/// bind(2) to a name as [`name`] tells it.
pub fn bind(socket: impl AsFd, name: &[u8]) -> io::Result<()> {
    let (address, len) = address(name)?;
    // SAFETY: the kernel reads `len` bytes of `address`.
    let ret = unsafe { libc::bind(socket.as_fd().as_raw_fd(), (&raw const address).cast(), len) };
    done(ret)
}

/// connect(2) to a name as [`name`] tells it.
pub fn connect(socket: impl AsFd, name: &[u8]) -> io::Result<()> {
    let (address, len) = address(name)?;
    // SAFETY: the kernel reads `len` bytes of `address`.
    let ret =
        unsafe { libc::connect(socket.as_fd().as_raw_fd(), (&raw const address).cast(), len) };
    done(ret)
}

fn done(ret: i32) -> io::Result<()> {
    match ret {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// SIOCUNIXFILE: the file that a socket is bound to, opened with O_PATH. EPERM
/// without CAP_NET_ADMIN; ENOENT: it is not bound to a path.
pub fn file(socket: impl AsFd) -> io::Result<OwnedFd> {
    const SIOCUNIXFILE: libc::c_ulong = 0x89e0;
    // SAFETY: this ioctl takes no argument.
    let fd = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCUNIXFILE, 0) };
    match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just given us this descriptor.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// SIOCATMARK: the next byte of a stream is out-of-band data.
pub fn at_mark(socket: impl AsFd) -> io::Result<bool> {
    const SIOCATMARK: libc::c_ulong = 0x8905;
    let mut at = 0_i32;
    // SAFETY: the kernel writes an int to `at`.
    let ret = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCATMARK, &raw mut at) };
    done(ret).map(|()| at != 0)
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    pub(in crate::kernel) fn socket() -> OwnedFd {
        use rustix::net::{AddressFamily, SocketType};
        rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap()
    }

    #[test]
    fn what_is_sent_arrives_with_all_that_goes_with_it() {
        let (one, other) = UnixDatagram::pair().unwrap();
        crate::kernel::socket_option::set(&other, libc::SO_PASSCRED, 1).unwrap();
        let me = (std::process::id() as i32, 0, 0);
        let me = (
            me.0,
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        );
        let message = Outgoing {
            bytes: b"data",
            rights: &[one.as_raw_fd(), other.as_raw_fd()],
            credentials: Some(me),
            ..Outgoing::default()
        };
        send(&one, &message).unwrap();
        for flags in [libc::MSG_PEEK, 0] {
            let got = receive(&other, 100, flags).unwrap().unwrap();
            assert_eq!(got.bytes, b"data");
            assert_eq!(got.rights.len(), 2);
            assert_eq!(got.credentials, Some(me));
            assert_eq!((got.sender, got.flags), (None, 0));
        }
        assert!(receive(&other, 100, 0).unwrap().is_none());
    }

    #[test]
    fn where_the_last_message_begins() {
        let (one, other) = UnixStream::pair().unwrap();
        let piece = |bytes: &[u8], rights: &[i32]| {
            let message = Outgoing {
                bytes,
                rights,
                ..Outgoing::default()
            };
            send(&one, &message).unwrap();
        };
        let fd = [one.as_raw_fd()];
        piece(b"without", &[]);
        piece(&[1; 9000], &[]);
        piece(b"with", &fd);
        piece(b"after", &[]);
        let seen = receive(&other, 20_000, libc::MSG_PEEK).unwrap().unwrap();
        assert_eq!((seen.bytes.len(), seen.rights.len()), (9011, 1));
        assert_eq!(before_last(&other, 9011).unwrap(), 9007);
        let mut first = vec![0; 9007];
        std::io::Read::read_exact(&mut &other, &mut first).unwrap();
        assert_eq!(before_last(&other, 4).unwrap(), 0);
        assert_eq!(receive(&other, 100, 0).unwrap().unwrap().rights.len(), 1);
        assert_eq!(before_last(&other, 5).unwrap(), 0);
    }

    #[test]
    fn a_name_is_as_it_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let named = rustix::path::Arg::as_str(&path).unwrap().as_bytes();
        let socket = UnixDatagram::unbound().unwrap();
        assert_eq!(name(&socket).unwrap(), None);
        bind(&socket, named).unwrap();
        assert_eq!(name(&socket).unwrap().unwrap(), named);
        let other = UnixDatagram::unbound().unwrap();
        bind(&other, b"").unwrap();
        let auto = name(&other).unwrap().unwrap();
        assert_eq!((auto.len(), auto[0]), (6, 0));
        connect(&socket, &auto).unwrap();
        assert_eq!(peer_name(&socket).unwrap().unwrap(), auto);
        send(&socket, &Outgoing::default()).unwrap();
        assert_eq!(
            receive(&other, 9, 0).unwrap().unwrap().sender.unwrap(),
            named
        );
        let file = file(&socket).unwrap();
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert_eq!(std::fs::read_link(link).unwrap(), path);
    }
}
