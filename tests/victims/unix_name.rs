//! AF_UNIX sockets with names, listening, connected by name.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
    accept_with, bind, connect, listen, recvfrom, sendto, shutdown, socket_with,
};

use crate::harness::{Stage, Victim};
use crate::regular::text;
use crate::sys::same;
use crate::unix::{DGRAM, SEQPACKET, STREAM, gets, make, put, take, write_error};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("unix-unbound", unbound),
        Victim::new("unix-bound", bound),
        Victim::new("unix-listening", listening),
        Victim::new("unix-connected", connected),
        Victim::new("unix-accepted-alone", alone),
        Victim::new("unix-file-deleted", deleted),
        Victim::new("unix-file-replaced", replaced),
        Victim::new("unix-backlog", backlog),
        Victim::new("unix-datagram-senders", senders),
        Victim::new("unix-datagram-connected", several),
        Victim::new("unix-datagram-to-itself", itself),
        Victim::refused("unix-file-linked", "has other names (hard links)", linked),
        Victim::refused("unix-backlog-data", "data was sent already", with_data),
        Victim::refused(
            "unix-backlog-closed",
            "has closed it already",
            without_client,
        ),
    ]
}

const CLOEXEC: SocketFlags = SocketFlags::CLOEXEC;

fn new(kind: SocketType) -> Result<OwnedFd, String> {
    socket_with(AddressFamily::UNIX, kind, CLOEXEC, None).map_err(text("socket"))
}

/// A socket file with a second name.
fn linked(stage: &mut Stage) -> Result<(), String> {
    let _socket = at(STREAM, &path("named")?)?;
    std::fs::hard_link("named", "linked").map_err(text("link"))?;
    while stage.next()? {}
    Ok(())
}

fn path(of: impl AsRef<Path>) -> Result<SocketAddrUnix, String> {
    SocketAddrUnix::new(of.as_ref()).map_err(text("address"))
}

fn abstract_name(name: &str) -> Result<SocketAddrUnix, String> {
    let name = format!("icecore-{}-{name}", std::process::id());
    SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(text("address"))
}

fn at(kind: SocketType, address: &SocketAddrUnix) -> Result<OwnedFd, String> {
    let socket = new(kind)?;
    bind(&socket, address).map_err(text("bind"))?;
    Ok(socket)
}

fn server(kind: SocketType, address: &SocketAddrUnix) -> Result<OwnedFd, String> {
    let socket = at(kind, address)?;
    listen(&socket, 5).map_err(text("listen"))?;
    Ok(socket)
}

fn client(kind: SocketType, address: &SocketAddrUnix) -> Result<OwnedFd, String> {
    let socket = new(kind)?;
    connect(&socket, address).map_err(text("connect"))?;
    Ok(socket)
}

fn accepted(listener: &OwnedFd) -> Result<OwnedFd, String> {
    accept_with(listener, CLOEXEC).map_err(text("accept"))
}

fn own_name(socket: impl AsFd) -> Result<SocketAddrUnix, String> {
    let name = rustix::net::getsockname(socket).map_err(text("getsockname"))?;
    name.try_into().map_err(text("its name"))
}

fn peer_name(socket: impl AsFd) -> Result<SocketAddrUnix, String> {
    let name = rustix::net::getpeername(socket).map_err(text("getpeername"))?;
    let name = name.ok_or("no other end")?;
    name.try_into().map_err(text("its name"))
}

/// Of each kind, shut down or not.
fn unbound(stage: &mut Stage) -> Result<(), String> {
    let sockets = [new(STREAM)?, new(DGRAM)?, new(SEQPACKET)?];
    let shut = new(DGRAM)?;
    shutdown(&shut, Shutdown::Write).map_err(text("shutdown"))?;
    while stage.next()? {
        for socket in &sockets {
            same("writing", &write_error(socket), &Err(Errno::NOTCONN))?;
        }
        same("writing", &write_error(&shut), &Err(Errno::PIPE))?;
    }
    Ok(())
}

/// By path, relative path, abstract name, a name the kernel chose.
fn bound(stage: &mut Stage) -> Result<(), String> {
    let autobound = new(DGRAM)?;
    rustix::net::bind(&autobound, &SocketAddrUnix::new_unnamed()).map_err(text("bind"))?;
    let chosen = own_name(&autobound)?;
    let absolute = stage.dir().join("absolute");
    let names = [
        path(&absolute)?,
        path("relative")?,
        path("./dotted")?,
        abstract_name("bound")?,
    ];
    let mut sockets = vec![(autobound, chosen)];
    for name in names {
        sockets.push((at(DGRAM, &name)?, name));
    }
    let stream = at(STREAM, &path("stream")?)?;
    std::fs::set_permissions(&absolute, std::fs::Permissions::from_mode(0o620))
        .map_err(text("chmod"))?;
    let stranger = new(DGRAM)?;
    loop {
        for (_, name) in &sockets {
            sendto(&stranger, b"before", SendFlags::empty(), name).map_err(text("sendto"))?;
        }
        if !stage.next()? {
            return Ok(());
        }
        for (socket, name) in &sockets {
            same("name", &own_name(socket)?, name)?;
            sendto(&stranger, b"after", SendFlags::empty(), name).map_err(text("sendto"))?;
            gets("sent before", socket, Ok(b"before"))?;
            gets("sent after", socket, Ok(b"after"))?;
        }
        let mode = std::fs::metadata(&absolute).map_err(text("stat"))?.mode();
        same("mode", &(mode & 0o777), &0o620)?;
        same("name", &own_name(&stream)?, &path("stream")?)?;
    }
}

fn listening(stage: &mut Stage) -> Result<(), String> {
    let names = [path("listening")?, abstract_name("listening")?];
    let mut servers = Vec::new();
    for kind in [STREAM, SEQPACKET] {
        let names = match kind {
            STREAM => &names[..],
            _ => &names[1..],
        };
        for name in names {
            servers.push((server(kind, name)?, kind, name));
        }
    }
    while stage.next()? {
        for (server, kind, name) in &servers {
            let client = client(*kind, name)?;
            let end = accepted(server)?;
            put(&client, b"hello")?;
            gets("hello", &end, Ok(b"hello"))?;
            let none =
                rustix::fs::fcntl_getfl(server).map(|f| f.contains(rustix::fs::OFlags::NONBLOCK));
            same("blocking", &none, &Ok(false))?;
        }
    }
    Ok(())
}

/// Both ends and the listener, which goes on; queues in both directions.
fn connected(stage: &mut Stage) -> Result<(), String> {
    let names = [path("connected")?, abstract_name("connected")?];
    let mut all = Vec::new();
    for name in &names {
        let listener = server(STREAM, name)?;
        let unnamed = client(STREAM, name)?;
        let first = accepted(&listener)?;
        let named = at(STREAM, &abstract_name(&format!("client{}", all.len()))?)?;
        connect(&named, name).map_err(text("connect"))?;
        let second = accepted(&listener)?;
        all.push((listener, [(unnamed, first), (named, second)], name));
    }
    loop {
        for (_, pairs, _) in &all {
            for (client, end) in pairs {
                put(client, b"question")?;
                put(end, b"answer")?;
            }
        }
        if !stage.next()? {
            return Ok(());
        }
        for (listener, pairs, name) in &all {
            for (client, end) in pairs {
                same("name", &own_name(end)?, name)?;
                same("name", &peer_name(client)?, name)?;
                same("name", &own_name(client)?, &peer_name(end)?)?;
                gets("question", end, Ok(b"question"))?;
                gets("answer", client, Ok(b"answer"))?;
            }
            let client = self::client(STREAM, name)?;
            drop(accepted(listener)?);
            gets("end of file", client, Ok(b""))?;
        }
    }
}

/// The listener is closed, or the client, or who accepted it.
fn alone(stage: &mut Stage) -> Result<(), String> {
    let make = |name: &SocketAddrUnix| -> Result<_, String> {
        let listener = server(SEQPACKET, name)?;
        let client = client(SEQPACKET, name)?;
        let end = accepted(&listener)?;
        Ok((client, end))
    };
    let [a, b, c] = ["alone-a", "alone-b", "alone-c"];
    let names = [abstract_name(a)?, path(b)?, path(c)?];
    let (client, end) = make(&names[0])?;
    let (left, gone) = make(&names[1])?;
    put(&gone, b"last words")?;
    drop(gone);
    let (gone, right) = make(&names[2])?;
    drop(gone);
    let mut words: &[u8] = b"last words";
    while stage.next()? {
        put(&client, b"through")?;
        gets("through", &end, Ok(b"through"))?;
        same("name", &own_name(&end)?, &names[0])?;
        gets("last words", &left, Ok(std::mem::take(&mut words)))?;
        same("name", &peer_name(&left)?, &names[1])?;
        gets("end of file", &right, Ok(b""))?;
        same("name", &own_name(&right)?, &names[2])?;
    }
    Ok(())
}

/// Found by nobody any more.
fn deleted(stage: &mut Stage) -> Result<(), String> {
    let (listening, other) = (stage.dir().join("deleted"), path("deleted-datagram")?);
    let listener = server(STREAM, &path(&listening)?)?;
    let receiver = at(DGRAM, &other)?;
    let sender = client(DGRAM, &other)?;
    for name in ["deleted", "deleted-datagram"] {
        std::fs::remove_file(stage.dir().join(name)).map_err(text("remove"))?;
    }
    while stage.next()? {
        same("name", &own_name(&listener)?, &path(&listening)?)?;
        same("file", &listening.exists(), &false)?;
        put(&sender, b"still here")?;
        gets("message", &receiver, Ok(b"still here"))?;
        let failed = connect(new(DGRAM)?, &other);
        same("connecting", &failed, &Err(Errno::NOENT))?;
    }
    Ok(())
}

/// Two sockets of the same name, one after the other; a file in place of one.
fn replaced(stage: &mut Stage) -> Result<(), String> {
    let name = path("replaced")?;
    let first = server(STREAM, &name)?;
    std::fs::remove_file("replaced").map_err(text("remove"))?;
    let second = server(STREAM, &name)?;
    let third = server(STREAM, &path("overwritten")?)?;
    std::fs::remove_file("overwritten").map_err(text("remove"))?;
    std::fs::write("overwritten", "a file").map_err(text("write"))?;
    while stage.next()? {
        let client = client(STREAM, &name)?;
        let end = accepted(&second)?;
        put(&client, b"to the second")?;
        gets("message", &end, Ok(b"to the second"))?;
        same("name", &own_name(&first)?, &name)?;
        same("name", &own_name(&third)?, &path("overwritten")?)?;
        let file = std::fs::read("overwritten").map_err(text("read"))?;
        same("file", &file[..], &b"a file"[..])?;
    }
    Ok(())
}

/// Clients that were not accepted yet, in their order.
fn backlog(stage: &mut Stage) -> Result<(), String> {
    let name = path("backlog")?;
    let listener = server(STREAM, &name)?;
    loop {
        let first = client(STREAM, &name)?;
        let named = at(STREAM, &abstract_name("waiting")?)?;
        connect(&named, &name).map_err(text("connect"))?;
        let clients = [first, named, client(STREAM, &name)?];
        shutdown(&clients[0], Shutdown::Write).map_err(text("shutdown"))?;
        if !stage.next()? {
            return Ok(());
        }
        for (i, client) in clients.iter().enumerate() {
            let end = accepted(&listener)?;
            put(&end, &[i as u8])?;
            same("which", &take(client, 9), &Ok(vec![i as u8]))?;
            match i {
                0 => gets("end of file", &end, Ok(b""))?,
                _ => put(client, b"x").and_then(|()| gets("data", &end, Ok(b"x")))?,
            }
        }
        same("name", &peer_name(&clients[1])?, &name)?;
    }
}

/// Datagrams of several, some of whom have gone.
fn senders(stage: &mut Stage) -> Result<(), String> {
    let name = path("receiver")?;
    let receiver = at(DGRAM, &name)?;
    let alive = at(DGRAM, &abstract_name("alive")?)?;
    let unnamed = new(DGRAM)?;
    let mut round = 0;
    loop {
        let gone = format!("gone-{round}");
        let gone = [
            at(DGRAM, &path(&gone)?)?,
            at(DGRAM, &abstract_name(&gone)?)?,
        ];
        round += 1;
        let froms = [&gone[0], &alive, &unnamed, &gone[1], &gone[0]];
        let mut expected = Vec::new();
        for (i, from) in froms.into_iter().enumerate() {
            let data = vec![i as u8; i];
            sendto(from, &data, SendFlags::empty(), &name).map_err(text("sendto"))?;
            let from = own_name(from)?;
            expected.push((
                data,
                (
                    from.path_bytes().map(<[u8]>::to_vec),
                    from.abstract_name()
                        .filter(|n| !n.is_empty())
                        .map(<[u8]>::to_vec),
                ),
            ));
        }
        drop(gone);
        if !stage.next()? {
            return Ok(());
        }
        for (data, from) in expected {
            let mut bytes = [0; 100];
            let got = recvfrom(&receiver, &mut bytes[..], RecvFlags::DONTWAIT);
            let (n, _, sender) = got.map_err(text("recvfrom"))?;
            same("data", &bytes[..n], &data[..])?;
            let named = |s: SocketAddrUnix| {
                (
                    s.path_bytes().map(<[u8]>::to_vec),
                    s.abstract_name().map(<[u8]>::to_vec),
                )
            };
            let sender: Option<SocketAddrUnix> = match sender {
                Some(s) => Some(s.try_into().map_err(text("its name"))?),
                None => None,
            };
            let nobody = (None, None);
            let sender = sender.map_or(nobody, named);
            same("sender", &sender, &from)?;
        }
        sendto(&unnamed, b"x", SendFlags::empty(), &own_name(&alive)?).map_err(text("sendto"))?;
        gets("to one who sent", &alive, Ok(b"x"))?;
    }
}

/// Several are connected to one, which is connected to one of them.
fn several(stage: &mut Stage) -> Result<(), String> {
    let name = abstract_name("one")?;
    let one = at(DGRAM, &name)?;
    let clients = [
        client(DGRAM, &name)?,
        client(DGRAM, &name)?,
        at(DGRAM, &path("third")?)?,
    ];
    connect(&clients[2], &name).map_err(text("connect"))?;
    let (a, b) = make(DGRAM, CLOEXEC)?;
    bind(&a, &path("pair")?).map_err(text("bind"))?;
    while stage.next()? {
        for (i, client) in clients.iter().enumerate() {
            same("name", &peer_name(client)?, &name)?;
            put(client, &[i as u8])?;
        }
        for i in 0..3 {
            gets("in order", &one, Ok(&[i]))?;
        }
        connect(&one, &path("third")?).map_err(text("connect"))?;
        let stranger = sendto(&clients[0], b"x", SendFlags::DONTWAIT, &name);
        same("stranger", &stranger, &Err(Errno::PERM))?;
        put(&one, b"back")?;
        gets("back", &clients[2], Ok(b"back"))?;
        put(&b, b"to a")?;
        gets("to a", &a, Ok(b"to a"))?;
        put(&a, b"to b")?;
        gets("to b", &b, Ok(b"to b"))?;
        disconnect(&one)?;
    }
    Ok(())
}

fn disconnect(socket: &OwnedFd) -> Result<(), String> {
    rustix::net::connect_unspec(socket).map_err(text("disconnect"))
}

fn itself(stage: &mut Stage) -> Result<(), String> {
    let name = abstract_name("itself")?;
    let socket = at(DGRAM, &name)?;
    connect(&socket, &name).map_err(text("connect"))?;
    loop {
        put(&socket, b"note")?;
        if !stage.next()? {
            return Ok(());
        }
        gets("note", &socket, Ok(b"note"))?;
    }
}

fn with_data(stage: &mut Stage) -> Result<(), String> {
    let name = path("backlog")?;
    let listener = server(STREAM, &name)?;
    let client = client(STREAM, &name)?;
    put(&client, b"early")?;
    while stage.next()? {}
    gets("early", accepted(&listener)?, Ok(b"early"))
}

fn without_client(stage: &mut Stage) -> Result<(), String> {
    let name = path("backlog")?;
    let listener = server(STREAM, &name)?;
    drop(client(STREAM, &name)?);
    while stage.next()? {}
    gets("end of file", accepted(&listener)?, Ok(b""))
}
