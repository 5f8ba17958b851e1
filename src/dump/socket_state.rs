//! What sockets of every family have: options, filter, owner.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use icecore_images::socket::{SocketOption, SocketState};
use rustix::net::{SocketType, sockopt};

use super::descriptor::Descriptor;
use crate::kernel::socket_options::{self, Known, Of};

/// The state, or what of it cannot be carried.
pub(super) fn read(
    d: &Descriptor,
    socket: &OwnedFd,
    connected: bool,
) -> io::Result<Result<SocketState, String>> {
    let filter = match socket_options::filter(socket) {
        Ok(filter) => filter,
        Err(e) if matches!(e.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => {
            let problem = "an eBPF program is attached to it (SO_ATTACH_BPF), which cannot be read";
            return Ok(Err(problem.to_owned()));
        }
        Err(e) => return Err(e),
    };
    let mut options = Vec::new();
    let stream = sockopt::socket_type(socket)? == SocketType::STREAM;
    for known in socket_options::ALL {
        let has = match known.of {
            Of::Any => true,
            Of::Unconnected => !connected,
            Of::Datagrams => !stream,
        };
        if has {
            options.extend(option(socket, known)?);
        }
    }
    Ok(Ok(SocketState {
        inode: d.meta.ino(),
        uid: d.meta.uid(),
        gid: d.meta.gid(),
        options,
        filter,
    }))
}

fn option(socket: &OwnedFd, known: &Known) -> io::Result<Option<SocketOption>> {
    let value = socket_options::get(socket, known.level, known.number);
    let value = value.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", known.name)))?;
    Ok(value.map(|value| SocketOption {
        level: known.level,
        number: known.number,
        value: value.into(),
    }))
}
