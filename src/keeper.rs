//! Talking to a keeper: what is kept for an image, taking it back, letting it
//! go.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use icecore_images::envelope::ImageId;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use rustix::time::Timespec;

use crate::tracer::keeper::protocol::{
    BATCH, DENIED, DONE, FOREIGN, HEADER, Header, LENT, LIST, LIST_HEADER, OK, READY, RELEASE,
    TAKE, u32_at, u64_at,
};
use crate::tracer::keeper::socket_path;

/// How long an answer may take.
const PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// More than any answer holds.
const LARGEST: usize = 1 << 20;

/// What can go wrong between a keeper and its callers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeeperError {
    /// Nobody listens.
    #[error("the keeper of {} is gone", .dir.display())]
    Gone {
        /// Directory of the image.
        dir: PathBuf,
    },
    /// Its socket may not be connected to, or it does not talk to us.
    #[error("the keeper of {} belongs to another user", .dir.display())]
    Denied {
        /// Directory of the image.
        dir: PathBuf,
    },
    /// It keeps for another image.
    #[error("the keeper in {} is another image's", .dir.display())]
    Foreign {
        /// Directory of the image.
        dir: PathBuf,
    },
    /// Somebody else is taking what it keeps.
    #[error("what the keeper of {} holds is being restored by pid {pid}", .dir.display())]
    Lent {
        /// Directory of the image.
        dir: PathBuf,
        /// By whom.
        pid: u32,
    },
    /// It could not be talked to.
    #[error("{what} the keeper of {}", .dir.display())]
    Io {
        /// What was done.
        what: &'static str,
        /// Directory of the image.
        dir: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl KeeperError {
    /// What would change it.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            KeeperError::Denied { .. } => Some("ask as the user who made the dump, or as root"),
            KeeperError::Lent { .. } => Some("wait until that restore is over"),
            _ => None,
        }
    }
}

/// A connection to a keeper.
#[derive(Debug)]
pub struct Caller {
    dir: PathBuf,
    image: ImageId,
    socket: OwnedFd,
}

/// What a keeper says of itself.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Holdings {
    /// Its pid.
    pub pid: u32,
    /// Who is taking it all at the moment.
    pub lent_to: Option<u32>,
    /// How long it will still wait; `None`: for ever.
    pub left: Option<Duration>,
    /// Open file descriptions by their ids in the image.
    pub kept: Vec<u32>,
}

impl Caller {
    /// Connects to the keeper of image `image` in `dir`.
    pub fn connect(dir: &Path, image: ImageId) -> Result<Self, KeeperError> {
        let failed = |e: Errno| match e {
            Errno::NOENT | Errno::CONNREFUSED => KeeperError::Gone { dir: dir.into() },
            Errno::ACCESS | Errno::PERM => KeeperError::Denied { dir: dir.into() },
            e => KeeperError::Io {
                what: "connect to",
                dir: dir.into(),
                source: e.into(),
            },
        };
        let connected = || -> Result<OwnedFd, Errno> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let handle = rustix::fs::open(dir, flags, Mode::empty())?;
            let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
            let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(socket_path(&handle))?)?;
            Ok(socket)
        };
        Ok(Self {
            dir: dir.to_owned(),
            image,
            socket: connected().map_err(failed)?,
        })
    }

    /// What it keeps, and for whom.
    pub fn list(&self) -> Result<Holdings, KeeperError> {
        let (packet, _) = self.ask(LIST, 0)?;
        let parsed = || {
            Some(Holdings {
                pid: u32_at(&packet, HEADER)?,
                lent_to: u32_at(&packet, HEADER + 4).filter(|&pid| pid != 0),
                left: u64_at(&packet, HEADER + 8)
                    .filter(|&left| left != u64::MAX)
                    .map(Duration::from_secs),
                kept: names(packet.get(LIST_HEADER..)?),
            })
        };
        parsed().ok_or_else(|| self.garbled())
    }

    /// Takes duplicates of all that it keeps, by their ids in the image. They
    /// go back if this connection ends before [`done`](Self::done).
    pub fn take(&self) -> Result<BTreeMap<u32, OwnedFd>, KeeperError> {
        let mut taken = BTreeMap::new();
        for first in (0..).step_by(BATCH) {
            let (packet, fds) = self.ask(TAKE, first)?;
            let names = names(packet.get(HEADER..).unwrap_or_default());
            if names.len() != fds.len() {
                return Err(self.garbled());
            }
            let last = names.len() < BATCH;
            taken.extend(names.into_iter().zip(fds));
            if last {
                break;
            }
        }
        Ok(taken)
    }

    /// The task, which has this pid here, is about to run.
    pub fn ready(&self, pid: u32) -> Result<(), KeeperError> {
        self.ask(READY, pid.into()).map(drop)
    }

    /// The task runs and has what was taken: the keeper may go.
    pub fn done(&self) -> Result<(), KeeperError> {
        self.ask(DONE, 0).map(drop)
    }

    /// Lets everything go.
    pub fn release(&self) -> Result<(), KeeperError> {
        self.ask(RELEASE, 0).map(drop)
    }

    fn ask(&self, word: u32, value: u64) -> Result<(Vec<u8>, Vec<OwnedFd>), KeeperError> {
        let request = Header {
            word,
            image: self.image.0,
            value,
        };
        // One that turns strangers away has answered already.
        let sent = rustix::net::send(&self.socket, &request.bytes(), SendFlags::NOSIGNAL);
        // If it did not take our request first, an error comes before its answer.
        let answer = match self.receive() {
            Err(Errno::CONNRESET) => self.receive(),
            answer => answer,
        };
        let (packet, fds) = match (answer, sent) {
            (Ok(answer), _) => answer,
            (_, Err(e)) | (Err(e), _) => return Err(self.failed(e)),
        };
        let header = Header::of(&packet).ok_or_else(|| self.garbled())?;
        let dir = self.dir.clone();
        match header.word {
            OK => Ok((packet, fds)),
            DENIED => Err(KeeperError::Denied { dir }),
            FOREIGN => Err(KeeperError::Foreign { dir }),
            LENT => Err(KeeperError::Lent {
                dir,
                pid: header.value as u32,
            }),
            _ => Err(self.garbled()),
        }
    }

    fn receive(&self) -> Result<(Vec<u8>, Vec<OwnedFd>), Errno> {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        if poll(&mut fds, Some(&PATIENCE))? == 0 {
            return Err(Errno::TIMEDOUT);
        }
        let mut bytes = vec![0; LARGEST];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut with = RecvAncillaryBuffer::new(&mut room);
        let message = rustix::net::recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut with,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        if message.bytes == 0 {
            return Err(Errno::CONNRESET);
        }
        bytes.truncate(message.bytes);
        let messages = with.drain();
        let fds = messages.filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        Ok((bytes, fds.flatten().collect()))
    }

    fn failed(&self, e: Errno) -> KeeperError {
        let dir = self.dir.clone();
        match e {
            Errno::CONNRESET | Errno::PIPE => KeeperError::Gone { dir },
            e => KeeperError::Io {
                what: "talk to",
                dir,
                source: e.into(),
            },
        }
    }

    fn garbled(&self) -> KeeperError {
        KeeperError::Io {
            what: "understand",
            dir: self.dir.clone(),
            source: io::ErrorKind::InvalidData.into(),
        }
    }
}

fn names(bytes: &[u8]) -> Vec<u32> {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|word| u32::from_le_bytes(*word)).collect()
}
