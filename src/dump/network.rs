//! What is changed of the network while TCP connections are read: locks that
//! keep their packets away, and TCP_REPAIR.
//!
//! The guardian is told of each change before it is made. Where the target goes
//! on, all of it is undone before it does; where it has been ended, its sockets
//! vanish silently, as those in repair do, and the lock on connections to the
//! outside stays until a restore.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::kernel::nft::{self, Ends};
use crate::kernel::{socket_option, socket_options};
use crate::tracer::guardian::Told;
use crate::tracer::{Guardian, Undo, fault};

const TCP: i32 = libc::IPPROTO_TCP;
const TCP_REPAIR: i32 = 19;
/// TCP_REPAIR_OFF_NO_WP: without asking the other end for its window.
const OFF: i32 = -1;

/// What has been changed and is to be undone.
#[derive(Debug, Default)]
pub(super) struct Network {
    locks: Vec<Lock>,
    repaired: Vec<Repaired>,
    /// Sockets that have left repair and will be put into it again.
    resting: Vec<OwnedFd>,
}

#[derive(Debug)]
struct Lock {
    table: CString,
    told: Told,
    /// It stays when the target has been ended.
    stays: bool,
}

/// A socket in repair.
#[derive(Debug)]
struct Repaired {
    socket: OwnedFd,
    /// SO_REUSEADDR, which leaving repair forgets.
    reuse: i32,
    told: [Told; 2],
}

impl Network {
    /// Drops what passes on these connections from now on.
    pub(super) fn lock(
        &mut self,
        guardian: &mut Guardian,
        table: CString,
        connections: &[Ends],
        stays: bool,
    ) -> io::Result<()> {
        let told = guardian.undo_later(&Undo::Netlink {
            protocol: nft::PROTOCOL,
            messages: &nft::unlocking(&table),
        })?;
        fault::point(fault::Kind::Network);
        nft::lock(&table, connections)?;
        fault::point(fault::Kind::Network);
        let lock = Lock { table, told, stays };
        self.locks.push(lock);
        Ok(())
    }

    /// Puts a connection's socket into repair.
    pub(super) fn repair(&mut self, guardian: &mut Guardian, socket: OwnedFd) -> io::Result<()> {
        let reuse = socket_option::get(&socket, libc::SO_REUSEADDR)?;
        let mut undo = |level, name, value| {
            guardian.undo_later(&Undo::SocketOption {
                socket: socket.as_fd(),
                level,
                name,
                value,
            })
        };
        // Undone the other way round.
        let told = [
            undo(libc::SOL_SOCKET, libc::SO_REUSEADDR, reuse)?,
            undo(TCP, TCP_REPAIR, OFF)?,
        ];
        fault::point(fault::Kind::Network);
        socket_options::set(&socket, TCP, TCP_REPAIR, &1_i32.to_ne_bytes())?;
        fault::point(fault::Kind::Network);
        self.repaired.push(Repaired {
            socket,
            reuse,
            told,
        });
        Ok(())
    }

    /// The sockets in repair, in the order in which they came.
    pub(super) fn repaired(&self) -> impl Iterator<Item = &OwnedFd> {
        self.repaired.iter().map(|repaired| &repaired.socket)
    }

    /// Takes all sockets out of repair once they have been read: if icecore is
    /// killed, the target is let go a moment before the guardian has acted. The
    /// locks see to it that nothing changes meanwhile.
    pub(super) fn rest(&mut self, guardian: &mut Guardian) -> io::Result<()> {
        for repaired in self.repaired.drain(..) {
            repaired.undo()?;
            fault::point(fault::Kind::Network);
            for told in repaired.told {
                guardian.forget(told)?;
            }
            self.resting.push(repaired.socket);
        }
        Ok(())
    }

    /// Puts them into repair again, so that they vanish silently with the target.
    pub(super) fn repair_again(&mut self, guardian: &mut Guardian) -> io::Result<()> {
        for socket in std::mem::take(&mut self.resting) {
            self.repair(guardian, socket)?;
        }
        Ok(())
    }

    /// Undoes everything: the target goes on.
    pub(super) fn let_go(&mut self, guardian: &mut Guardian) -> io::Result<()> {
        self.rest(guardian)?;
        self.resting.clear();
        for lock in self.locks.drain(..) {
            nft::unlock(&lock.table)?;
            fault::point(fault::Kind::Network);
            guardian.forget(lock.told)?;
        }
        Ok(())
    }

    /// The target has been ended: its connections are left as they are.
    pub(super) fn keep(&mut self, guardian: &mut Guardian) -> io::Result<()> {
        for lock in std::mem::take(&mut self.locks) {
            guardian.forget(lock.told)?;
            if !lock.stays {
                nft::unlock(&lock.table)?;
            }
        }
        for repaired in self.repaired.drain(..) {
            for told in repaired.told {
                guardian.forget(told)?;
            }
        }
        Ok(())
    }
}

impl Repaired {
    fn undo(&self) -> io::Result<()> {
        socket_options::set(&self.socket, TCP, TCP_REPAIR, &OFF.to_ne_bytes())?;
        socket_option::set(&self.socket, libc::SO_REUSEADDR, self.reuse)
    }
}

/// A dump that failed undoes it all itself; the guardian would, too.
impl Drop for Network {
    fn drop(&mut self) {
        for repaired in &self.repaired {
            let _ = repaired.undo();
        }
        for lock in &self.locks {
            let _ = nft::unlock(&lock.table);
        }
    }
}
